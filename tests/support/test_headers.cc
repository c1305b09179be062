// SPDX-License-Identifier: Apache-2.0
// Empty: CMake compiles precompiled headers for targets that have a source.
