// The filter of ../README.md over the bare ABI.
#include "proxy_wasm.h"

enum route { OTHER, HEADERS, REPLY, REPLY_BODY, REPLY_RESPONSE, BODY };

// Streams that are alive; ids are small and few here.
static struct stream {
  context_id id;
  enum route route;
  char path[128];
} streams[256];

static struct text configuration;

void EXPORT(proxy_abi_version_0_2_1)(void) {}

void *EXPORT(proxy_on_memory_allocate)(size_t size) { return malloc(size); }

int32_t EXPORT(proxy_on_vm_start)(context_id root, uint32_t size) {
  (void)root, (void)size;
  return true;
}

int32_t EXPORT(proxy_on_configure)(context_id root, uint32_t size) {
  (void)root;
  proxy_get_buffer_bytes(PLUGIN_CONFIGURATION, 0, size, &configuration.data, &configuration.size);
  say(LOG_INFO, "configured with %zu bytes", configuration.size);
  return !is(configuration, "{\"refuse\":true}");
}

static struct stream *stream_of(context_id id) {
  for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
    if (streams[i].id == id) return &streams[i];
  return NULL;
}

void EXPORT(proxy_on_context_create)(context_id id, context_id parent) {
  if (parent == 0) return;
  struct stream *slot = stream_of(0);
  if (slot) slot->id = id;
}

static struct text header(enum map map, const char *name) {
  struct text value = {0};
  if (proxy_get_header_map_value(map, name, strlen(name), &value.data, &value.size) != 0) value.data = NULL;
  return value;
}

static void add(enum map map, const char *name, const char *value) {
  proxy_add_header_map_value(map, name, strlen(name), value, strlen(value));
}

static void set(enum map map, const char *name, const char *value) {
  proxy_replace_header_map_value(map, name, strlen(name), value, strlen(value));
}

static void drop(enum map map, const char *name) { proxy_remove_header_map_value(map, name, strlen(name)); }

static enum route route_of(const char *path) {
  static const struct {
    const char *path;
    enum route route;
  } routes[] = {{"/headers", HEADERS},     {"/reply", REPLY}, {"/reply-body", REPLY_BODY},
                {"/reply-response", REPLY_RESPONSE}, {"/body", BODY}};
  for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
    if (strcmp(path, routes[i].path) == 0) return routes[i].route;
  return OTHER;
}

int32_t EXPORT(proxy_on_request_headers)(context_id id, uint32_t count, int32_t end) {
  (void)count, (void)end;
  struct stream *stream = stream_of(id);
  if (!stream) return CONTINUE;
  struct text path = header(REQUEST_HEADERS, ":path");
  snprintf(stream->path, sizeof stream->path, "%.*s", (int)path.size, path.data);
  free(path.data);
  stream->route = route_of(stream->path);
  switch (stream->route) {
  case HEADERS: {
    struct text value = header(REQUEST_HEADERS, "X-Read");
    say(LOG_INFO, "read: %.*s", value.data ? (int)value.size : 4, value.data ? value.data : "none");
    free(value.data);
    add(REQUEST_HEADERS, "x-added", "one");
    add(REQUEST_HEADERS, "x-added", "two");
    set(REQUEST_HEADERS, "x-replaced", "new");
    set(REQUEST_HEADERS, "x-set", "fresh");
    drop(REQUEST_HEADERS, "x-removed");
    drop(REQUEST_HEADERS, "x-absent");
    return CONTINUE;
  }
  case REPLY: {
    // One pair: x-reason, because.
    static const char headers[] = "\1\0\0\0\10\0\0\0\7\0\0\0x-reason\0because";
    proxy_send_local_response(418, TEXT("no coffee"), TEXT("I am a teapot\n"), headers, sizeof headers, -1);
    return PAUSE;
  }
  case BODY:
    drop(REQUEST_HEADERS, "content-length");
    return CONTINUE;
  default:
    return CONTINUE;
  }
}

static struct text buffered(enum buffer buffer, uint32_t size) {
  struct text body = {0};
  proxy_get_buffer_bytes(buffer, 0, size, &body.data, &body.size);
  return body;
}

static void shout(enum buffer buffer, uint32_t size) {
  struct text body = buffered(buffer, size);
  char *shouted = malloc(body.size + 2);
  shouted[0] = '<';
  for (size_t i = 0; i < body.size; i++) {
    char c = body.data[i];
    shouted[i + 1] = c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c;
  }
  shouted[body.size + 1] = '>';
  say(LOG_INFO, "body of %zu bytes", body.size);
  proxy_set_buffer_bytes(buffer, 0, size, shouted, body.size + 2);
  free(shouted);
  free(body.data);
}

int32_t EXPORT(proxy_on_request_body)(context_id id, uint32_t size, int32_t end) {
  struct stream *stream = stream_of(id);
  if (!stream || (stream->route != BODY && stream->route != REPLY_BODY)) return CONTINUE;
  if (!end) return PAUSE;
  if (stream->route == BODY) {
    shout(REQUEST_BODY, size);
    return CONTINUE;
  }
  struct text body = buffered(REQUEST_BODY, size);
  bool bad = is(body, "bad");
  free(body.data);
  if (!bad) return CONTINUE;
  proxy_send_local_response(400, TEXT(""), TEXT("bad body\n"), NULL, 0, -1);
  return PAUSE;
}

int32_t EXPORT(proxy_on_response_headers)(context_id id, uint32_t count, int32_t end) {
  (void)count, (void)end;
  struct stream *stream = stream_of(id);
  if (!stream) return CONTINUE;
  proxy_replace_header_map_value(RESPONSE_HEADERS, TEXT("x-filter"), configuration.data, configuration.size);
  switch (stream->route) {
  case HEADERS: {
    struct text status = header(RESPONSE_HEADERS, ":status");
    say(LOG_INFO, "status: %.*s", (int)status.size, status.data);
    free(status.data);
    add(RESPONSE_HEADERS, "x-added", "back");
    set(RESPONSE_HEADERS, "x-replaced", "new");
    drop(RESPONSE_HEADERS, "x-secret");
    return CONTINUE;
  }
  case REPLY_RESPONSE: {
    // Local replies pass here too.
    struct text status = header(RESPONSE_HEADERS, ":status");
    bool ours = is(status, "502");
    free(status.data);
    if (ours) return CONTINUE;
    proxy_send_local_response(502, TEXT(""), TEXT("not this\n"), NULL, 0, -1);
    return PAUSE;
  }
  case BODY:
    drop(RESPONSE_HEADERS, "content-length");
    return CONTINUE;
  default:
    return CONTINUE;
  }
}

int32_t EXPORT(proxy_on_response_body)(context_id id, uint32_t size, int32_t end) {
  struct stream *stream = stream_of(id);
  if (!stream || stream->route != BODY) return CONTINUE;
  if (!end) return PAUSE;
  shout(RESPONSE_BODY, size);
  return CONTINUE;
}

void EXPORT(proxy_on_log)(context_id id) {
  struct stream *stream = stream_of(id);
  if (stream) say(LOG_INFO, "over: %s", stream->path);
}

void EXPORT(proxy_on_delete)(context_id id) {
  struct stream *stream = stream_of(id);
  if (stream) *stream = (struct stream){0};
}
