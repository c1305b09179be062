// SPDX-License-Identifier: Apache-2.0
// What each part of the daemon shows. One function per part; each may be called from any thread but
// a reactor's, and takes the locks of a listing only.
#pragma once

#include <string_view>

#include "core/async/reactor_pool.h"
#include "core/map/device_registry.h"
#include "server/iscsi/target_directory.h"
#include "server/metrics/families.h"
#include "server/metrics/grpc_metrics.h"

namespace sectormap::metrics {

void AddBuildFamilies(std::string_view version, Families& families);
void AddReactorFamilies(ReactorPool& reactors, Families& families);
void AddDeviceFamilies(const DeviceRegistry& devices, Families& families);
void AddIscsiFamilies(const iscsi::TargetDirectory& targets, Families& families);
void AddGrpcFamilies(const GrpcMetrics& grpc, Families& families);

}  // namespace sectormap::metrics
