// Calls the ABI as no filter should, and logs each status it gets. The path chooses what is tried.
#include "proxy_wasm.h"

#define TRY(call) say(LOG_INFO, "%s: %s = %d", where, #call, (call))

static const char *where = "";
static context_id root_id;
static char path[64];

// What a host writes into.
static char *data;
static size_t size;
static uint32_t id;

#define OUT &data, &size

void EXPORT(proxy_abi_version_0_2_1)(void) {}

void *EXPORT(proxy_on_memory_allocate)(size_t bytes) { return malloc(bytes); }

static void told(const char *what) {
  say(LOG_INFO, "%s: %s: %.*s (%zu)", where, what, data ? (int)size : 4, data ? data : "null", size);
}

// Nothing of a stream is there, or all of it.
static void maps(void) {
  for (int32_t map = 0; map <= 8; map++) {
    data = (char *)1, size = 77;
    int32_t value = proxy_get_header_map_value(map, TEXT("x-absent"), OUT);
    size_t bytes = 77;
    int32_t total = proxy_get_header_map_size(map, &bytes);
    data = (char *)1, size = 77;
    int32_t pairs = proxy_get_header_map_pairs(map, OUT);
    say(LOG_INFO, "%s: map %d: value %d, size %d, pairs %d", where, map, value, total, pairs);
  }
}

static void edits(int32_t map) {
  int32_t add = proxy_add_header_map_value(map, TEXT("x-edit"), TEXT("1"));
  int32_t replace = proxy_replace_header_map_value(map, TEXT("x-edit"), TEXT("2"));
  int32_t remove = proxy_remove_header_map_value(map, TEXT("x-edit"));
  int32_t again = proxy_remove_header_map_value(map, TEXT("x-edit"));
  say(LOG_INFO, "%s: edit %d: add %d, replace %d, remove %d, again %d", where, map, add, replace, remove, again);
}

static void buffers(void) {
  for (int32_t buffer = 0; buffer <= 9; buffer++) {
    data = (char *)1, size = 77;
    int32_t get = proxy_get_buffer_bytes(buffer, 0, 10, OUT);
    size_t total = 77;
    uint32_t flags = 77;
    int32_t status = proxy_get_buffer_status(buffer, &total, &flags);
    say(LOG_INFO, "%s: buffer %d: get %d, status %d", where, buffer, get, status);
  }
}

// What never depends on a stream.
static void anywhere(void) {
  TRY(proxy_log(9, TEXT("no such level")));
  TRY(proxy_get_log_level((int32_t *)&id));
  TRY(proxy_set_effective_context(987654));
  TRY(proxy_set_effective_context(root_id));
  TRY(proxy_done());
  TRY(proxy_get_shared_data(TEXT("probe-absent"), OUT, &id));
  TRY(proxy_set_shared_data(TEXT("probe-new"), TEXT("v"), 4711));
  TRY(proxy_set_shared_data(TEXT("probe-new"), TEXT("v"), 0xffffffff));
  TRY(proxy_set_shared_data(TEXT(""), TEXT("v"), 0));
  TRY(proxy_get_shared_data(TEXT(""), OUT, &id));
  TRY(proxy_resolve_shared_queue(TEXT(""), TEXT("probe-absent"), &id));
  TRY(proxy_enqueue_shared_queue(0, TEXT("x")));
  TRY(proxy_dequeue_shared_queue(0, OUT));
  TRY(proxy_define_metric(3, TEXT("probe_odd"), &id));
  TRY(proxy_define_metric(0, TEXT("probe_counter"), &id));
  TRY(proxy_increment_metric(id, 0));
  TRY(proxy_increment_metric(id, -1));
  TRY(proxy_increment_metric(id, 1));
  uint64_t value;
  TRY(proxy_get_metric(id, &value));
  TRY(proxy_define_metric(2, TEXT("probe_histogram"), &id));
  TRY(proxy_increment_metric(id, 1));
  TRY(proxy_record_metric(id, 1));
  TRY(proxy_get_metric(id, &value));
  TRY(proxy_increment_metric(4712, 1));
  TRY(proxy_record_metric(4712, 1));
  TRY(proxy_get_metric(4712, &value));
  TRY(proxy_get_property(TEXT("nobody\0knows"), OUT));
  TRY(proxy_get_property(TEXT(""), OUT));
  TRY(proxy_call_foreign_function(TEXT("nobody_knows"), TEXT(""), OUT));
  TRY(proxy_call_foreign_function(TEXT("nobody_knows"), TEXT(""), NULL, NULL));
  TRY(proxy_grpc_cancel(4711));
  TRY(proxy_grpc_close(4711));
  TRY(proxy_grpc_send(4711, TEXT(""), 1));
  TRY(proxy_grpc_send(6, TEXT(""), 1));
  TRY(proxy_continue_stream(9));
  TRY(proxy_close_stream(9));
  TRY(proxy_http_call(TEXT("nowhere"), NULL, 0, NULL, 0, NULL, 0, 100, &id));
  TRY(proxy_grpc_call(TEXT("nowhere"), TEXT("s"), TEXT("m"), NULL, 0, NULL, 0, 100, &id));
  TRY(proxy_grpc_stream(TEXT("nowhere"), TEXT("s"), TEXT("m"), NULL, 0, &id));
}

// Pointers at the edge of memory and beyond it.
static void wild(void) {
  char *const beyond = (char *)0xfffffff0;
  size_t *const beyond_size = (size_t *)beyond;
  TRY(proxy_log(LOG_INFO, beyond, 100));
  TRY(proxy_log(LOG_INFO, TEXT("")));
  TRY(proxy_get_log_level((int32_t *)beyond));
  TRY(proxy_get_current_time_nanoseconds((uint64_t *)beyond));
  TRY(proxy_get_header_map_value(REQUEST_HEADERS, beyond, 10, OUT));
  TRY(proxy_get_header_map_value(REQUEST_HEADERS, TEXT(":path"), (char **)beyond, &size));
  TRY(proxy_get_header_map_value(REQUEST_HEADERS, TEXT(":path"), &data, beyond_size));
  TRY(proxy_get_header_map_size(REQUEST_HEADERS, beyond_size));
  TRY(proxy_get_header_map_pairs(REQUEST_HEADERS, (char **)beyond, &size));
  TRY(proxy_set_header_map_pairs(REQUEST_HEADERS, beyond, 10));
  TRY(proxy_add_header_map_value(REQUEST_HEADERS, beyond, 10, TEXT("v")));
  TRY(proxy_add_header_map_value(REQUEST_HEADERS, TEXT("x-wild"), beyond, 0x7fffffff));
  TRY(proxy_replace_header_map_value(REQUEST_HEADERS, TEXT("x-wild"), beyond, 10));
  TRY(proxy_remove_header_map_value(REQUEST_HEADERS, beyond, 10));
  TRY(proxy_get_property(beyond, 10, OUT));
  TRY(proxy_get_property(TEXT("request\0path"), (char **)beyond, &size));
  TRY(proxy_get_shared_data(beyond, 10, OUT, &id));
  TRY(proxy_set_shared_data(TEXT("k"), beyond, 10, 0));
  TRY(proxy_define_metric(0, beyond, 10, &id));
  TRY(proxy_define_metric(0, TEXT("probe_wild"), (uint32_t *)beyond));
  TRY(proxy_call_foreign_function(beyond, 10, TEXT(""), OUT));
  TRY(proxy_send_local_response(200, beyond, 10, TEXT(""), NULL, 0, -1));
  TRY(proxy_send_local_response(200, TEXT(""), beyond, 10, NULL, 0, -1));
  TRY(proxy_send_local_response(200, TEXT(""), TEXT(""), beyond, 10, -1));
  TRY(proxy_http_call(beyond, 10, NULL, 0, NULL, 0, NULL, 0, 100, &id));
}

// Values that are empty, and maps that are not what they say.
static void empty(void) {
  TRY(proxy_add_header_map_value(REQUEST_HEADERS, TEXT("x-hollow"), TEXT("")));
  data = (char *)1, size = 77;
  TRY(proxy_get_header_map_value(REQUEST_HEADERS, TEXT("x-hollow"), OUT));
  told("an empty value");
  data = (char *)1, size = 77;
  TRY(proxy_get_header_map_value(REQUEST_HEADERS, TEXT("x-absent"), OUT));
  TRY(proxy_get_header_map_value(REQUEST_HEADERS, TEXT(""), OUT));
  TRY(proxy_get_header_map_value(REQUEST_HEADERS, TEXT("X-UPPER"), OUT));
  told("by another case");
  TRY(proxy_set_property(TEXT("probe"), TEXT("")));
  data = (char *)1, size = 77;
  TRY(proxy_get_property(TEXT("probe"), OUT));
  told("an empty property");
  TRY(proxy_set_shared_data(TEXT("probe-empty"), TEXT(""), 0));
  data = (char *)1, size = 77;
  TRY(proxy_get_shared_data(TEXT("probe-empty"), OUT, &id));
  told("empty data");
}

// Tables of headers that lie about themselves; each replaces the response's trailers nobody reads, or
// goes where a broken one does no harm.
static void tables(void) {
  // One pair: x-a, b.
  static const char good[] = "\1\0\0\0\3\0\0\0\1\0\0\0x-a\0b";
  static const char long_key[] = "\1\0\0\0\377\377\377\377\1\0\0\0x-a\0b";
  static const char many[] = "\377\377\377\377\3\0\0\0\1\0\0\0x-a\0b";
  static const char no_nul[] = "\1\0\0\0\3\0\0\0\1\0\0\0x-aXb";
  TRY(proxy_http_call(TEXT("nowhere"), good, sizeof good, NULL, 0, NULL, 0, 100, &id));
  TRY(proxy_http_call(TEXT("nowhere"), long_key, sizeof long_key, NULL, 0, NULL, 0, 100, &id));
  TRY(proxy_http_call(TEXT("nowhere"), many, sizeof many, NULL, 0, NULL, 0, 100, &id));
  TRY(proxy_http_call(TEXT("nowhere"), no_nul, sizeof no_nul, NULL, 0, NULL, 0, 100, &id));
  TRY(proxy_http_call(TEXT("nowhere"), good, 3, NULL, 0, NULL, 0, 100, &id));
}

// Parts of a body of ten bytes that is all here.
static void parts(void) {
  TRY(proxy_get_buffer_bytes(REQUEST_BODY, 0, 4, OUT));
  told("its head");
  TRY(proxy_get_buffer_bytes(REQUEST_BODY, 8, 100, OUT));
  told("its tail");
  data = (char *)1, size = 77;
  TRY(proxy_get_buffer_bytes(REQUEST_BODY, 10, 1, OUT));
  TRY(proxy_get_buffer_bytes(REQUEST_BODY, 11, 1, OUT));
  TRY(proxy_get_buffer_bytes(REQUEST_BODY, 0, 0, OUT));
  TRY(proxy_set_buffer_bytes(VM_CONFIGURATION, 0, 1, TEXT("x")));
  TRY(proxy_set_buffer_bytes(9, 0, 1, TEXT("x")));
  TRY(proxy_set_buffer_bytes(REQUEST_BODY, 0, 2, TEXT("xyz")));
  TRY(proxy_get_buffer_bytes(REQUEST_BODY, 0, 100, OUT));
  told("head replaced");
  TRY(proxy_set_buffer_bytes(REQUEST_BODY, 100, 5, TEXT("!")));
  TRY(proxy_get_buffer_bytes(REQUEST_BODY, 0, 100, OUT));
  told("appended");
  TRY(proxy_set_buffer_bytes(REQUEST_BODY, 0, 0xffffffff, TEXT("anew")));
  TRY(proxy_get_buffer_bytes(REQUEST_BODY, 0, 100, OUT));
  told("replaced");
}

static void everything(const char *callback) {
  where = callback;
  maps();
  buffers();
}

void EXPORT(proxy_on_context_create)(context_id id_of_it, context_id parent) {
  if (parent == 0) root_id = id_of_it;
}

int32_t EXPORT(proxy_on_vm_start)(context_id root, uint32_t bytes) {
  (void)root, (void)bytes;
  everything("start");
  return true;
}

int32_t EXPORT(proxy_on_configure)(context_id root, uint32_t bytes) {
  (void)root, (void)bytes;
  everything("configure");
  for (int32_t map = 0; map < 8; map++) edits(map);
  anywhere();
  return true;
}

int32_t EXPORT(proxy_on_request_headers)(context_id stream, uint32_t count, int32_t end) {
  (void)stream, (void)count, (void)end;
  path[0] = 0;
  if (proxy_get_header_map_value(REQUEST_HEADERS, TEXT(":path"), OUT) == 0)
    snprintf(path, sizeof path, "%.*s", (int)size, data);
  where = "request headers";
  if (strcmp(path, "/everything") == 0) {
    everything(where);
    for (int32_t map = 0; map < 8; map++) edits(map);
  }
  if (strcmp(path, "/anywhere") == 0) anywhere();
  if (strcmp(path, "/wild") == 0) wild();
  if (strcmp(path, "/empty") == 0) empty();
  if (strcmp(path, "/tables") == 0) tables();
  if (strcmp(path, "/parts") == 0) proxy_remove_header_map_value(REQUEST_HEADERS, TEXT("content-length"));
  return CONTINUE;
}

int32_t EXPORT(proxy_on_request_body)(context_id stream, uint32_t bytes, int32_t end) {
  (void)stream, (void)bytes;
  where = "request body";
  if (strcmp(path, "/everything") == 0 && end) everything(where);
  if (strcmp(path, "/parts") == 0) {
    if (!end) return PAUSE;
    parts();
  }
  return CONTINUE;
}

int32_t EXPORT(proxy_on_response_headers)(context_id stream, uint32_t count, int32_t end) {
  (void)stream, (void)count, (void)end;
  if (strcmp(path, "/everything") == 0) {
    everything("response headers");
    for (int32_t map = 0; map < 8; map++) edits(map);
  }
  return CONTINUE;
}

int32_t EXPORT(proxy_on_response_body)(context_id stream, uint32_t bytes, int32_t end) {
  (void)stream, (void)bytes;
  if (strcmp(path, "/everything") == 0 && end) everything("response body");
  return CONTINUE;
}

void EXPORT(proxy_on_log)(context_id stream) {
  (void)stream;
  where = "log";
  if (strcmp(path, "/everything") == 0) everything(where);
  // Ends Envoy 1.40 by a segmentation fault.
  if (strcmp(path, "/late") == 0) {
    TRY(proxy_send_local_response(200, TEXT(""), TEXT(""), NULL, 0, -1));
    TRY(proxy_continue_stream(0));
    TRY(proxy_close_stream(0));
  }
  say(LOG_INFO, "over: %s", path);
}
