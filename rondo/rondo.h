#pragma once
// What users of the library may include. Everything else is Rondo's own and may change without notice.

#include "rondo/comm/communicator.h"
#include "rondo/comm/threads.h"
#include "rondo/core/arena.h"
#include "rondo/core/context.h"
#include "rondo/core/device_threads.h"
#include "rondo/core/dtype.h"
#include "rondo/core/error.h"
#include "rondo/core/isa.h"
#include "rondo/core/ledger.h"
#include "rondo/core/stream.h"
#include "rondo/core/tensor.h"
#include "rondo/core/trace.h"
#include "rondo/kernels/kernels.h"
#include "rondo/schedule/schedule.h"
