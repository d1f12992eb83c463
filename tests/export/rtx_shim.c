// The C symbols that TensorRT's Python bindings link, forwarded to TensorRT-RTX, whose builder and ONNX parser run
// without a GPU. Each factory checks that its caller was compiled for its own version, so the version argument is
// replaced by the one that the library itself reports.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static void* load(const char* variable, void** handle) {
  if (*handle == NULL) {
    const char* path = getenv(variable);
    *handle = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (*handle == NULL) {
      fprintf(stderr, "rtx_shim: %s: %s\n", variable, path == NULL ? "not set" : dlerror());
      exit(1);
    }
  }
  return *handle;
}

static void* builder_symbol(const char* name) {
  static void* handle;
  return dlsym(load("CLIPFAST_TEST_RTX_BUILDER", &handle), name);
}

static void* parser_symbol(const char* name) {
  static void* handle;
  builder_symbol("getInferLibVersion");  // the parser links against the builder
  return dlsym(load("CLIPFAST_TEST_RTX_PARSER", &handle), name);
}

typedef void* (*one_argument)(void*, int);
typedef void* (*two_arguments)(void*, void*, int);
typedef int (*version_of)(void);

static int builder_version(void) { return ((version_of)builder_symbol("getInferLibVersion"))(); }

int getNvOnnxParserVersion(void) {
  return ((version_of)parser_symbol("getNvOnnxParserVersion"))();
}

void* createInferBuilder_INTERNAL(void* logger, int version) {
  return ((one_argument)builder_symbol("createInferBuilder_INTERNAL"))(logger, builder_version());
}

void* createInferRuntime_INTERNAL(void* logger, int version) {
  return ((one_argument)builder_symbol("createInferRuntime_INTERNAL"))(logger, builder_version());
}

void* createInferRefitter_INTERNAL(void* engine, void* logger, int version) {
  return ((two_arguments)builder_symbol("createInferRefitter_INTERNAL"))(engine, logger,
                                                                         builder_version());
}

void* createNvOnnxParser_INTERNAL(void* network, void* logger, int version) {
  return ((two_arguments)parser_symbol("createNvOnnxParser_INTERNAL"))(network, logger,
                                                                       getNvOnnxParserVersion());
}

void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void* logger, int version) {
  return ((two_arguments)parser_symbol("createNvOnnxParserRefitter_INTERNAL"))(
      refitter, logger, getNvOnnxParserVersion());
}

void* getBuilderPluginRegistry(int capability) {
  return ((void* (*)(int))builder_symbol("getBuilderPluginRegistry"))(capability);
}

void* getPluginRegistry(void) { return ((void* (*)(void))builder_symbol("getPluginRegistry"))(); }

int initLibNvInferPlugins(void* logger, const char* name_space) { return 1; }
