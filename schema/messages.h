// The messages of limpet as plain data. wire.h turns them into verified FlatBuffers frames and
// back; protocol.md says who sends which when. Nothing here knows sockets or storage.
#pragma once
#include "schema/client_messages.h"
#include "schema/worker_messages.h"
