// The Proxy-Wasm ABI 0.2.1 for C, as far as these guests use it, and a little to write with.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name))) name
#define IMPORT(name) __attribute__((import_module("env"), import_name(#name))) extern name_of(name)
#define name_of(name) int32_t name

typedef uint32_t context_id;

enum log_level { LOG_TRACE, LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_CRITICAL };
enum action { CONTINUE, PAUSE };
enum buffer {
  REQUEST_BODY, RESPONSE_BODY, DOWNSTREAM_DATA, UPSTREAM_DATA, CALL_RESPONSE_BODY, GRPC_MESSAGE,
  VM_CONFIGURATION, PLUGIN_CONFIGURATION, CALL_DATA
};
enum map {
  REQUEST_HEADERS, REQUEST_TRAILERS, RESPONSE_HEADERS, RESPONSE_TRAILERS,
  GRPC_INITIAL_METADATA, GRPC_TRAILING_METADATA, CALL_RESPONSE_HEADERS, CALL_RESPONSE_TRAILERS
};

IMPORT(proxy_log)(int32_t level, const char *text, size_t size);
IMPORT(proxy_get_log_level)(int32_t *level);
IMPORT(proxy_get_current_time_nanoseconds)(uint64_t *now);
IMPORT(proxy_set_tick_period_milliseconds)(uint32_t period);
IMPORT(proxy_set_effective_context)(context_id id);
IMPORT(proxy_done)(void);
IMPORT(proxy_get_buffer_bytes)(int32_t buffer, uint32_t start, uint32_t max, char **data, size_t *size);
IMPORT(proxy_get_buffer_status)(int32_t buffer, size_t *size, uint32_t *flags);
IMPORT(proxy_set_buffer_bytes)(int32_t buffer, uint32_t start, uint32_t size, const char *data, size_t data_size);
IMPORT(proxy_get_header_map_size)(int32_t map, size_t *size);
IMPORT(proxy_get_header_map_pairs)(int32_t map, char **data, size_t *size);
IMPORT(proxy_set_header_map_pairs)(int32_t map, const char *data, size_t size);
IMPORT(proxy_get_header_map_value)(int32_t map, const char *key, size_t key_size, char **value, size_t *size);
IMPORT(proxy_add_header_map_value)(int32_t map, const char *key, size_t key_size, const char *value, size_t size);
IMPORT(proxy_replace_header_map_value)(int32_t map, const char *key, size_t key_size, const char *value, size_t size);
IMPORT(proxy_remove_header_map_value)(int32_t map, const char *key, size_t key_size);
IMPORT(proxy_continue_stream)(int32_t stream);
IMPORT(proxy_close_stream)(int32_t stream);
IMPORT(proxy_get_status)(int32_t *code, char **message, size_t *size);
IMPORT(proxy_send_local_response)(int32_t code, const char *details, size_t details_size, const char *body,
                                  size_t body_size, const char *headers, size_t headers_size, int32_t grpc_status);
IMPORT(proxy_http_call)(const char *upstream, size_t upstream_size, const char *headers, size_t headers_size,
                        const char *body, size_t body_size, const char *trailers, size_t trailers_size,
                        uint32_t timeout, uint32_t *id);
IMPORT(proxy_grpc_call)(const char *upstream, size_t upstream_size, const char *service, size_t service_size,
                        const char *method, size_t method_size, const char *metadata, size_t metadata_size,
                        const char *message, size_t message_size, uint32_t timeout, uint32_t *id);
IMPORT(proxy_grpc_stream)(const char *upstream, size_t upstream_size, const char *service, size_t service_size,
                          const char *method, size_t method_size, const char *metadata, size_t metadata_size,
                          uint32_t *id);
IMPORT(proxy_grpc_send)(uint32_t id, const char *message, size_t size, int32_t end);
IMPORT(proxy_grpc_cancel)(uint32_t id);
IMPORT(proxy_grpc_close)(uint32_t id);
IMPORT(proxy_get_shared_data)(const char *key, size_t key_size, char **value, size_t *size, uint32_t *cas);
IMPORT(proxy_set_shared_data)(const char *key, size_t key_size, const char *value, size_t size, uint32_t cas);
IMPORT(proxy_register_shared_queue)(const char *name, size_t size, uint32_t *id);
IMPORT(proxy_resolve_shared_queue)(const char *vm, size_t vm_size, const char *name, size_t size, uint32_t *id);
IMPORT(proxy_enqueue_shared_queue)(uint32_t id, const char *data, size_t size);
IMPORT(proxy_dequeue_shared_queue)(uint32_t id, char **data, size_t *size);
IMPORT(proxy_define_metric)(int32_t type, const char *name, size_t size, uint32_t *id);
IMPORT(proxy_increment_metric)(uint32_t id, int64_t by);
IMPORT(proxy_record_metric)(uint32_t id, int64_t value);
IMPORT(proxy_get_metric)(uint32_t id, uint64_t *value);
IMPORT(proxy_get_property)(const char *path, size_t path_size, char **value, size_t *size);
IMPORT(proxy_set_property)(const char *path, size_t path_size, const char *value, size_t size);
IMPORT(proxy_call_foreign_function)(const char *name, size_t name_size, const char *data, size_t size,
                                    char **result, size_t *result_size);

// A literal, or an array, as pointer and length.
#define TEXT(literal) (literal), (sizeof(literal) - 1)

// What the host gave us; `data` is ours to free.
struct text {
  char *data;
  size_t size;
};

static inline bool is(struct text text, const char *expected) {
  return text.size == strlen(expected) && memcmp(text.data, expected, text.size) == 0;
}

__attribute__((format(printf, 2, 3))) static inline void say(enum log_level level, const char *format, ...) {
  char line[1024];
  va_list rest;
  va_start(rest, format);
  int size = vsnprintf(line, sizeof line, format, rest);
  va_end(rest);
  proxy_log(level, line, size < (int)sizeof line ? (size_t)size : sizeof line - 1);
}
