//! What Bookinfo's services say: one book, its details, two reviews, their stars.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Who gave how many stars.
const RATINGS: [(&str, u8); 2] = [("Reviewer1", 5), ("Reviewer2", 4)];

/// How the page looks.
pub(crate) const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#222}
section{border-top:1px solid #ddd;margin-top:1.5rem}h2{font-size:1.1rem}dt{color:#666}dd{margin:0 0 .5rem}
blockquote{margin:1rem 0}.by{color:#666}.error{color:#b00}.red{color:#c22}footer{color:#666;margin-top:2rem}
";

/// The only product.
pub(crate) fn product() -> Value {
    json!({ "id": 0, "title": "The Comedy of Errors" })
}

/// What `details` knows.
pub(crate) fn details(id: u32) -> Value {
    json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "language": "English",
    })
}

/// What `ratings` knows.
pub(crate) fn ratings(id: u32) -> Value {
    let stars: serde_json::Map<String, Value> = RATINGS
        .iter()
        .map(|(reviewer, stars)| ((*reviewer).to_owned(), (*stars).into()))
        .collect();
    json!({ "id": id, "ratings": stars })
}

/// What a version of `reviews` says; with stars of a colour if it asked for ratings.
pub(crate) fn reviews(
    pod: &str,
    id: u32,
    ratings: Option<&(&str, Result<Value, String>)>,
) -> Value {
    let texts = [
        "Two pairs of twins, one town, no end of mistaken identity: a good companion for whoever \
         reads certificates for a living.",
        "Short and quick. Nobody in it asks for credentials, and see what comes of that.",
    ];
    let reviews: Vec<Value> = RATINGS
        .iter()
        .zip(texts)
        .map(|((reviewer, _), text)| {
            let mut review = json!({ "reviewer": reviewer, "text": text });
            match ratings {
                Some((colour, Ok(ratings))) => {
                    review["rating"] =
                        json!({ "stars": ratings["ratings"][*reviewer], "color": colour });
                }
                Some((_, Err(reason))) => review["rating"] = json!({ "error": reason }),
                None => {}
            }
            review
        })
        .collect();
    json!({ "id": id, "podname": pod, "reviews": reviews })
}

/// The page a person looks at.
pub(crate) fn html(details: &Result<Value, String>, reviews: &Result<Value, String>) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Bookinfo</title>\
         <link rel=stylesheet href=/static/style.css><h1>The Comedy of Errors</h1>",
    );
    page.push_str("<section><h2>Details</h2>");
    match details {
        Ok(details) => {
            page.push_str("<dl>");
            for key in ["author", "year", "type", "pages", "language"] {
                let _ = write!(page, "<dt>{key}<dd>{}", text(&details[key]));
            }
            page.push_str("</dl>");
        }
        Err(reason) => error(&mut page, reason),
    }
    page.push_str("</section><section><h2>Reviews</h2>");
    let served_by = match reviews {
        Ok(reviews) => {
            for review in reviews["reviews"].as_array().into_iter().flatten() {
                let _ = write!(page, "<blockquote>{}<br>", text(&review["text"]));
                let rating = &review["rating"];
                match (rating["stars"].as_u64(), rating["error"].as_str()) {
                    (Some(stars), _) => {
                        let stars = "\u{2605}".repeat(stars.min(5) as usize);
                        let colour = text(&rating["color"]);
                        let _ = write!(page, "<span class=\"{colour}\">{stars}</span> ");
                    }
                    (None, Some(reason)) => error(&mut page, reason),
                    (None, None) => {}
                }
                let by = text(&review["reviewer"]);
                let _ = write!(page, "<span class=by>{by}</span></blockquote>");
            }
            text(&reviews["podname"])
        }
        Err(reason) => {
            error(&mut page, reason);
            "nobody".to_owned()
        }
    };
    let _ = writeln!(
        page,
        "</section><footer>Reviews served by {served_by}. Reload for another throw.</footer></html>"
    );
    page
}

fn error(page: &mut String, reason: &str) {
    let _ = write!(page, "<p class=error>{}</p>", escape(reason));
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_ask_for_ratings_show_stars() {
        let plain = reviews("reviews-v1", 0, None);
        let red = reviews("reviews-v3", 0, Some(&("red", Ok(ratings(0)))));
        assert!(plain["reviews"][0].get("rating").is_none());
        assert_eq!(red["reviews"][1]["rating"]["stars"], 4);
        let page = html(&Ok(details(0)), &Ok(red));
        assert!(page.contains("class=\"red\">\u{2605}") && page.contains("reviews-v3"));
    }

    #[test]
    fn what_others_say_stands_in_the_page_as_text() {
        let page = html(&Err("<script>".to_owned()), &Err("403".to_owned()));
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
        assert!(page.contains("403"));
    }
}
