// The Proxy-Wasm ABI for AssemblyScript, as far as this guest uses it.

const LOG_INFO: i32 = 2;

export const CONTINUE: i32 = 0;
export const PAUSE: i32 = 1;

export const REQUEST_BODY: i32 = 0;
export const RESPONSE_BODY: i32 = 1;
export const PLUGIN_CONFIGURATION: i32 = 7;

export const REQUEST_HEADERS: i32 = 0;
export const RESPONSE_HEADERS: i32 = 2;

@external("env", "proxy_log")
declare function proxy_log(level: i32, text: usize, size: i32): i32;
@external("env", "proxy_get_buffer_bytes")
declare function proxy_get_buffer_bytes(buffer: i32, start: i32, max: i32, data: usize, size: usize): i32;
@external("env", "proxy_set_buffer_bytes")
declare function proxy_set_buffer_bytes(buffer: i32, start: i32, size: i32, data: usize, dataSize: i32): i32;
@external("env", "proxy_get_header_map_value")
declare function proxy_get_header_map_value(map: i32, key: usize, keySize: i32, value: usize, size: usize): i32;
@external("env", "proxy_add_header_map_value")
declare function proxy_add_header_map_value(map: i32, key: usize, keySize: i32, value: usize, size: i32): i32;
@external("env", "proxy_replace_header_map_value")
declare function proxy_replace_header_map_value(map: i32, key: usize, keySize: i32, value: usize, size: i32): i32;
@external("env", "proxy_remove_header_map_value")
declare function proxy_remove_header_map_value(map: i32, key: usize, keySize: i32): i32;
@external("env", "proxy_send_local_response")
declare function proxy_send_local_response(
  code: i32, details: usize, detailsSize: i32, body: usize, bodySize: i32, pairs: usize, pairsSize: i32, grpc: i32,
): i32;

// Cells for the host to write a pointer and a length into.
const DATA: usize = memory.data(4);
const SIZE: usize = memory.data(4);

// Blocks for the host come from the collector's own heap, pinned until they are read.
export function allocate(size: i32): usize {
  return __pin(__new(size, idof<ArrayBuffer>()));
}

function taken(): ArrayBuffer {
  const data = load<usize>(DATA);
  if (data == 0) return new ArrayBuffer(0);
  const block = changetype<ArrayBuffer>(data);
  const copy = block.slice(0, load<i32>(SIZE));
  __unpin(data);
  return copy;
}

function bytes(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

export function info(text: string): void {
  const line = bytes(text);
  proxy_log(LOG_INFO, changetype<usize>(line), line.byteLength);
}

export function buffer(which: i32, size: i32): ArrayBuffer {
  store<usize>(DATA, 0);
  if (proxy_get_buffer_bytes(which, 0, size, DATA, SIZE) != 0) return new ArrayBuffer(0);
  return taken();
}

export function setBuffer(which: i32, size: i32, data: ArrayBuffer): void {
  proxy_set_buffer_bytes(which, 0, size, changetype<usize>(data), data.byteLength);
}

export function header(which: i32, name: string): string | null {
  const key = bytes(name);
  store<usize>(DATA, 0);
  if (proxy_get_header_map_value(which, changetype<usize>(key), key.byteLength, DATA, SIZE) != 0) return null;
  return String.UTF8.decode(taken());
}

export function addHeader(which: i32, name: string, value: string): void {
  const key = bytes(name);
  const data = bytes(value);
  proxy_add_header_map_value(which, changetype<usize>(key), key.byteLength, changetype<usize>(data), data.byteLength);
}

export function setHeader(which: i32, name: string, value: string): void {
  const key = bytes(name);
  const data = bytes(value);
  proxy_replace_header_map_value(
    which, changetype<usize>(key), key.byteLength, changetype<usize>(data), data.byteLength,
  );
}

export function removeHeader(which: i32, name: string): void {
  const key = bytes(name);
  proxy_remove_header_map_value(which, changetype<usize>(key), key.byteLength);
}

/** Answers with at most one header: none where `name` is empty. */
export function reply(code: i32, details: string, body: string, name: string = "", value: string = ""): void {
  const why = bytes(details);
  const text = bytes(body);
  const key = bytes(name);
  const data = bytes(value);
  let pairs = new ArrayBuffer(0);
  if (name.length > 0) {
    pairs = new ArrayBuffer(12 + key.byteLength + 1 + data.byteLength + 1);
    const at = changetype<usize>(pairs);
    store<u32>(at, 1);
    store<u32>(at + 4, key.byteLength);
    store<u32>(at + 8, data.byteLength);
    memory.copy(at + 12, changetype<usize>(key), key.byteLength);
    memory.copy(at + 13 + key.byteLength, changetype<usize>(data), data.byteLength);
  }
  proxy_send_local_response(
    code, changetype<usize>(why), why.byteLength, changetype<usize>(text), text.byteLength,
    changetype<usize>(pairs), pairs.byteLength, -1,
  );
}
