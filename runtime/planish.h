/* planish.h: the C interface of a compiled model. Version 1.
 *
 * Two shared objects meet here. A *unit* is a compiled model: it exports planish_abi_version, planish_unit_query,
 * planish_create and the rest of the second half of this file. The *host* is the process-wide thread pool: it exports
 * planish_host_abi and planish_host_table. A unit does not link against the host; it is handed the host's table, so that
 * two models in one process share one pool. With a null table a unit runs on the calling thread alone.
 *
 * Plain C, no allocation in the caller's name, no global state in a unit. Every function may be called from any thread;
 * one context serves one call at a time.
 */
#ifndef PLANISH_H
#define PLANISH_H

#include <stdint.h>

#define PLANISH_ABI 1u      /* of units: the functions and structures below */
#define PLANISH_HOST_ABI 1u /* of the host: planish_host and planish_host_api */

#if defined(__GNUC__)
#define PLANISH_EXPORT __attribute__((visibility("default")))
#else
#define PLANISH_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- host ------------------------------------------------------------------------------------------------------- */

/* What a kernel sees of the host: one per context, private to the running call. */
#define PLANISH_HOST /* generated kernels bring their own copy where this header is absent */
typedef struct planish_host {
  uint32_t abi;    /* PLANISH_HOST_ABI */
  int32_t workers; /* how many may run in parallel_for, this call: 1 + what the pool could spare */
  /* Runs body(arg, task, worker) for every task in [0, tasks), worker in [0, workers); returns when all are done. The
   * caller is worker 0. Neighbouring tasks tend to go to one worker. Not to be nested. */
  void (*parallel_for)(const struct planish_host*, int64_t tasks, void (*body)(void* arg, int64_t task, int32_t worker),
                       void* arg);
  void* pool;     /* private to the host */
  int32_t* error; /* kernels set it non-zero: 1 = an index was out of range */
} planish_host;

/* The host's own functions. */
typedef struct planish_host_api {
  uint32_t abi; /* PLANISH_HOST_ABI */
  /* A table for one context whose calls use at most `threads` threads (the caller included); null: out of memory. */
  planish_host* (*open)(int32_t threads);
  void (*close)(planish_host*);
  /* Around every call: takes idle workers of the pool (none where they are busy) and gives them back. */
  void (*enter)(planish_host*);
  void (*leave)(planish_host*);
  /* Lets the pool grow to the workers that `calls` parallel calls of `threads` threads need; never shrinks it. */
  void (*reserve)(int32_t threads, int32_t calls);
  /* Worker threads alive now. */
  int32_t (*workers)(void);
} planish_host_api;

PLANISH_EXPORT uint32_t planish_host_abi(void);
PLANISH_EXPORT const planish_host_api* planish_host_table(void);

/* ---- unit ------------------------------------------------------------------------------------------------------- */

enum {
  PLANISH_OK = 0,
  PLANISH_INDEX = 1,   /* a kernel met an index out of range; where = launch */
  PLANISH_SYMBOL = 2,  /* a symbol is outside its bounds; where = symbol, value = what was given */
  PLANISH_MEMORY = 3,  /* out of memory; value = bytes asked for */
  PLANISH_NULL = 4,    /* a pointer is null; where = its number among inputs, outputs, then states */
  PLANISH_ABI_MISMATCH = 5,
  PLANISH_WEIGHTS = 6, /* too few bytes of weights, or their base is not 64-byte aligned; value = bytes needed */
  PLANISH_UNBOUND = 7  /* planish_run_bound before planish_bind */
};

typedef struct planish_error {
  int32_t code;
  int32_t where;
  int64_t value;
} planish_error;

/* An input, output or state. `shape` is text, comma separated integer expressions over the symbols. */
typedef struct planish_port {
  const char* name;
  const char* dtype; /* f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool */
  const char* shape;
  int32_t rank;
} planish_port;

typedef struct planish_symbol {
  const char* name;
  int64_t lower, upper; /* inclusive */
} planish_symbol;

typedef struct planish_unit_info {
  uint32_t abi;      /* PLANISH_ABI */
  uint32_t host_abi; /* the PLANISH_HOST_ABI it was built against */
  const char* isa;
  uint64_t weights_bytes;
  int32_t symbol_count, input_count, output_count, state_count, buffer_count, launch_count;
  const planish_symbol* symbols;
  const planish_port *inputs, *outputs, *states;
  const char* const* launches; /* labels */
} planish_unit_info;

typedef struct planish_model planish_model;
typedef struct planish_context planish_context;

PLANISH_EXPORT uint32_t planish_abi_version(void);
PLANISH_EXPORT const planish_unit_info* planish_unit_query(void);

/* The shape of a port (kind 0 input, 1 output, 2 state) for given symbols, `rank` numbers. Returns a code. */
PLANISH_EXPORT int32_t planish_shape(const int64_t* symbols, int32_t kind, int32_t port, int64_t* shape);

/* A model over weights that the caller keeps alive and unchanged; 64-byte aligned. `host` may be null. */
PLANISH_EXPORT int32_t planish_create(const planish_host_api* host, const void* weights, uint64_t bytes,
                                      planish_model** model, planish_error* error);
/* Its contexts stay valid; the memory goes with the last of them. */
PLANISH_EXPORT void planish_destroy(planish_model*);

/* A context serves one call at a time with at most `threads` threads; null: out of memory. */
PLANISH_EXPORT planish_context* planish_context_create(planish_model*, int32_t threads);
PLANISH_EXPORT void planish_context_destroy(planish_context*);

/* Runs the model. inputs, outputs, states: one pointer per port, C-contiguous, aligned to the element; an input may not
 * overlap an output. symbols: their values in the order of planish_unit_query. `error` may be null. Returns a code.
 * Memory is planned when symbols are first seen by the context; nothing is allocated for those seen before. */
PLANISH_EXPORT int32_t planish_run(planish_context*, void* const* inputs, const int64_t* symbols, void* const* outputs,
                                   void* const* states, planish_error* error);

/* Fixes the pointers and symbols of a context; then planish_run_bound runs it with no check at all. planish_run on the
 * same context ends the binding. */
PLANISH_EXPORT int32_t planish_bind(planish_context*, void* const* inputs, const int64_t* symbols, void* const* outputs,
                                    void* const* states, planish_error* error);
PLANISH_EXPORT int32_t planish_run_bound(planish_context*);

/* From now on adds the seconds of each launch to seconds[launch]; null ends it. */
PLANISH_EXPORT void planish_set_timing(planish_context*, double* seconds);

/* The arena for these symbols, in bytes; offsets (may be null) receives one number per buffer, -1 where it is not in the
 * arena. */
PLANISH_EXPORT int32_t planish_arena(planish_context*, const int64_t* symbols, int64_t* bytes, int64_t* offsets,
                                     planish_error* error);

#ifdef __cplusplus
}
#endif
#endif
