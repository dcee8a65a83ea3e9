package main

import (
	"encoding/binary"
	"unsafe"
)

// The Proxy-Wasm ABI for Go, as far as this guest uses it.

const (
	logInfo = 2

	statusOK = 0

	actionContinue = 0
	actionPause    = 1

	requestBody         = 0
	responseBody        = 1
	pluginConfiguration = 7

	requestHeaders  = 0
	responseHeaders = 2
)

//go:wasmimport env proxy_log
func proxyLog(level int32, text *byte, size int32) int32

// Where the host writes an address, `data` and `value` below are that of a nil pointer: Go's are twice
// as wide as the module's, and the upper half stays zero.

//go:wasmimport env proxy_get_buffer_bytes
func proxyGetBufferBytes(buffer, start, max int32, data unsafe.Pointer, size *int32) int32

//go:wasmimport env proxy_set_buffer_bytes
func proxySetBufferBytes(buffer, start, size int32, data *byte, dataSize int32) int32

//go:wasmimport env proxy_get_header_map_value
func proxyGetHeaderMapValue(headers int32, key *byte, keySize int32, value unsafe.Pointer, size *int32) int32

//go:wasmimport env proxy_add_header_map_value
func proxyAddHeaderMapValue(headers int32, key *byte, keySize int32, value *byte, size int32) int32

//go:wasmimport env proxy_replace_header_map_value
func proxyReplaceHeaderMapValue(headers int32, key *byte, keySize int32, value *byte, size int32) int32

//go:wasmimport env proxy_remove_header_map_value
func proxyRemoveHeaderMapValue(headers int32, key *byte, keySize int32) int32

//go:wasmimport env proxy_send_local_response
func proxySendLocalResponse(code int32, details *byte, detailsSize int32, body *byte, bodySize int32,
	pairs *byte, pairsSize int32, grpcStatus int32) int32

// What the host asked for and has not come back for yet: nothing else holds it.
var given = map[*byte][]byte{}

//go:wasmexport proxy_on_memory_allocate
func allocate(size int32) *byte {
	block := make([]byte, size)
	first := unsafe.SliceData(block)
	given[first] = block
	return first
}

func taken(data *byte, size int32) []byte {
	if data == nil {
		return nil
	}
	delete(given, data)
	return unsafe.Slice(data, size)
}

func bytesOf(text string) (*byte, int32) {
	return unsafe.StringData(text), int32(len(text))
}

func info(text string) {
	data, size := bytesOf(text)
	proxyLog(logInfo, data, size)
}

func buffer(which, size int32) []byte {
	var data *byte
	var got int32
	if proxyGetBufferBytes(which, 0, size, unsafe.Pointer(&data), &got) != statusOK {
		return nil
	}
	return taken(data, got)
}

func setBuffer(which, size int32, data []byte) {
	proxySetBufferBytes(which, 0, size, unsafe.SliceData(data), int32(len(data)))
}

func header(which int32, name string) (string, bool) {
	var data *byte
	var size int32
	key, keySize := bytesOf(name)
	if proxyGetHeaderMapValue(which, key, keySize, unsafe.Pointer(&data), &size) != statusOK {
		return "", false
	}
	return string(taken(data, size)), true
}

func addHeader(which int32, name, value string) {
	key, keySize := bytesOf(name)
	data, size := bytesOf(value)
	proxyAddHeaderMapValue(which, key, keySize, data, size)
}

func setHeader(which int32, name, value string) {
	key, keySize := bytesOf(name)
	data, size := bytesOf(value)
	proxyReplaceHeaderMapValue(which, key, keySize, data, size)
}

func removeHeader(which int32, name string) {
	key, keySize := bytesOf(name)
	proxyRemoveHeaderMapValue(which, key, keySize)
}

func reply(code int32, details, body string, pairs ...[2]string) {
	encoded := binary.LittleEndian.AppendUint32(nil, uint32(len(pairs)))
	for _, pair := range pairs {
		encoded = binary.LittleEndian.AppendUint32(encoded, uint32(len(pair[0])))
		encoded = binary.LittleEndian.AppendUint32(encoded, uint32(len(pair[1])))
	}
	for _, pair := range pairs {
		encoded = append(append(encoded, pair[0]...), 0)
		encoded = append(append(encoded, pair[1]...), 0)
	}
	why, whySize := bytesOf(details)
	text, textSize := bytesOf(body)
	proxySendLocalResponse(code, why, whySize, text, textSize, unsafe.SliceData(encoded), int32(len(encoded)), -1)
}
