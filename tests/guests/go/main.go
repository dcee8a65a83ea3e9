// The filter of ../README.md over the bare ABI.
package main

import (
	"bytes"
	"fmt"
)

func main() {}

//go:wasmexport proxy_abi_version_0_2_1
func abiVersion() {}

var configuration string

// The path of each stream that is alive.
var streams = map[int32]string{}

//go:wasmexport proxy_on_vm_start
func onVMStart(root, size int32) int32 { return 1 }

//go:wasmexport proxy_on_configure
func onConfigure(root, size int32) int32 {
	configuration = string(buffer(pluginConfiguration, size))
	info(fmt.Sprintf("configured with %d bytes", len(configuration)))
	if configuration == `{"refuse":true}` {
		return 0
	}
	return 1
}

//go:wasmexport proxy_on_context_create
func onContextCreate(id, parent int32) {
	if parent != 0 {
		streams[id] = ""
	}
}

//go:wasmexport proxy_on_request_headers
func onRequestHeaders(id, count, end int32) int32 {
	path, _ := header(requestHeaders, ":path")
	streams[id] = path
	switch path {
	case "/headers":
		value, found := header(requestHeaders, "X-Read")
		if !found {
			value = "none"
		}
		info("read: " + value)
		addHeader(requestHeaders, "x-added", "one")
		addHeader(requestHeaders, "x-added", "two")
		setHeader(requestHeaders, "x-replaced", "new")
		setHeader(requestHeaders, "x-set", "fresh")
		removeHeader(requestHeaders, "x-removed")
		removeHeader(requestHeaders, "x-absent")
	case "/reply":
		reply(418, "no coffee", "I am a teapot\n", [2]string{"x-reason", "because"})
		return actionPause
	case "/body":
		removeHeader(requestHeaders, "content-length")
	}
	return actionContinue
}

func shout(which, size int32) {
	body := buffer(which, size)
	info(fmt.Sprintf("body of %d bytes", len(body)))
	shouted := append([]byte{'<'}, bytes.ToUpper(body)...)
	setBuffer(which, size, append(shouted, '>'))
}

//go:wasmexport proxy_on_request_body
func onRequestBody(id, size, end int32) int32 {
	path := streams[id]
	if path != "/body" && path != "/reply-body" {
		return actionContinue
	}
	if end == 0 {
		return actionPause
	}
	if path == "/body" {
		shout(requestBody, size)
		return actionContinue
	}
	if string(buffer(requestBody, size)) != "bad" {
		return actionContinue
	}
	reply(400, "", "bad body\n")
	return actionPause
}

//go:wasmexport proxy_on_response_headers
func onResponseHeaders(id, count, end int32) int32 {
	setHeader(responseHeaders, "x-filter", configuration)
	switch streams[id] {
	case "/headers":
		status, _ := header(responseHeaders, ":status")
		info("status: " + status)
		addHeader(responseHeaders, "x-added", "back")
		setHeader(responseHeaders, "x-replaced", "new")
		removeHeader(responseHeaders, "x-secret")
	case "/reply-response":
		// Local replies pass here too.
		if status, _ := header(responseHeaders, ":status"); status != "502" {
			reply(502, "", "not this\n")
			return actionPause
		}
	case "/body":
		removeHeader(responseHeaders, "content-length")
	}
	return actionContinue
}

//go:wasmexport proxy_on_response_body
func onResponseBody(id, size, end int32) int32 {
	if streams[id] != "/body" {
		return actionContinue
	}
	if end == 0 {
		return actionPause
	}
	shout(responseBody, size)
	return actionContinue
}

//go:wasmexport proxy_on_log
func onLog(id int32) { info("over: " + streams[id]) }

//go:wasmexport proxy_on_delete
func onDelete(id int32) { delete(streams, id) }
