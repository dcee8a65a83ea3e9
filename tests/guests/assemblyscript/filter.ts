// The filter of ../README.md over the bare ABI.
import {
  CONTINUE, PAUSE, PLUGIN_CONFIGURATION, REQUEST_BODY, REQUEST_HEADERS, RESPONSE_BODY, RESPONSE_HEADERS,
  addHeader, allocate, buffer, header, info, removeHeader, reply, setBuffer, setHeader,
} from "./host";

let configuration = "";

// The path of each stream that is alive.
const streams = new Map<i32, string>();

export function proxy_abi_version_0_2_1(): void {}

export function proxy_on_memory_allocate(size: i32): usize {
  return allocate(size);
}

export function proxy_on_vm_start(root: i32, size: i32): i32 {
  return 1;
}

export function proxy_on_configure(root: i32, size: i32): i32 {
  const bytes = buffer(PLUGIN_CONFIGURATION, size);
  configuration = String.UTF8.decode(bytes);
  info(`configured with ${bytes.byteLength} bytes`);
  return configuration == '{"refuse":true}' ? 0 : 1;
}

export function proxy_on_context_create(id: i32, parent: i32): void {
  if (parent != 0) streams.set(id, "");
}

function pathOf(id: i32): string {
  return streams.has(id) ? streams.get(id) : "";
}

export function proxy_on_request_headers(id: i32, count: i32, end: i32): i32 {
  const found = header(REQUEST_HEADERS, ":path");
  const path = found == null ? "" : found;
  streams.set(id, path);
  if (path == "/headers") {
    const value = header(REQUEST_HEADERS, "X-Read");
    info("read: " + (value == null ? "none" : value));
    addHeader(REQUEST_HEADERS, "x-added", "one");
    addHeader(REQUEST_HEADERS, "x-added", "two");
    setHeader(REQUEST_HEADERS, "x-replaced", "new");
    setHeader(REQUEST_HEADERS, "x-set", "fresh");
    removeHeader(REQUEST_HEADERS, "x-removed");
    removeHeader(REQUEST_HEADERS, "x-absent");
  } else if (path == "/reply") {
    reply(418, "no coffee", "I am a teapot\n", "x-reason", "because");
    return PAUSE;
  } else if (path == "/body") {
    removeHeader(REQUEST_HEADERS, "content-length");
  }
  return CONTINUE;
}

function shout(which: i32, size: i32): void {
  const body = Uint8Array.wrap(buffer(which, size));
  info(`body of ${body.length} bytes`);
  const shouted = new Uint8Array(body.length + 2);
  shouted[0] = 0x3c;
  for (let i = 0; i < body.length; i++) {
    const c = body[i];
    shouted[i + 1] = c >= 0x61 && c <= 0x7a ? c - 0x20 : c;
  }
  shouted[body.length + 1] = 0x3e;
  setBuffer(which, size, shouted.buffer);
}

export function proxy_on_request_body(id: i32, size: i32, end: i32): i32 {
  const path = pathOf(id);
  if (path != "/body" && path != "/reply-body") return CONTINUE;
  if (!end) return PAUSE;
  if (path == "/body") {
    shout(REQUEST_BODY, size);
    return CONTINUE;
  }
  if (String.UTF8.decode(buffer(REQUEST_BODY, size)) != "bad") return CONTINUE;
  reply(400, "", "bad body\n");
  return PAUSE;
}

export function proxy_on_response_headers(id: i32, count: i32, end: i32): i32 {
  const path = pathOf(id);
  setHeader(RESPONSE_HEADERS, "x-filter", configuration);
  if (path == "/headers") {
    const status = header(RESPONSE_HEADERS, ":status");
    info("status: " + (status == null ? "" : status));
    addHeader(RESPONSE_HEADERS, "x-added", "back");
    setHeader(RESPONSE_HEADERS, "x-replaced", "new");
    removeHeader(RESPONSE_HEADERS, "x-secret");
  } else if (path == "/reply-response") {
    // Local replies pass here too.
    const status = header(RESPONSE_HEADERS, ":status");
    if (status == null || status != "502") {
      reply(502, "", "not this\n");
      return PAUSE;
    }
  } else if (path == "/body") {
    removeHeader(RESPONSE_HEADERS, "content-length");
  }
  return CONTINUE;
}

export function proxy_on_response_body(id: i32, size: i32, end: i32): i32 {
  if (pathOf(id) != "/body") return CONTINUE;
  if (!end) return PAUSE;
  shout(RESPONSE_BODY, size);
  return CONTINUE;
}

export function proxy_on_log(id: i32): void {
  info("over: " + pathOf(id));
}

export function proxy_on_delete(id: i32): void {
  streams.delete(id);
}
