// A matrix that knows what it stores.
#pragma once

#include "cpu/dtype.h"

namespace clipfast {

struct TypedMatrix {
    Matrix matrix;
    Dtype dtype;

    bool given() const { return matrix.data != nullptr; }
    const char* row(std::int64_t i) const { return matrix.row(i); }
    char* row_to_write(std::int64_t i) const { return const_cast<char*>(matrix.row(i)); }
};

}  // namespace clipfast
