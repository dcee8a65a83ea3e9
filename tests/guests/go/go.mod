module wayline.test/filter

go 1.24
