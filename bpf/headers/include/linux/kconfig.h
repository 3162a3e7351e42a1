/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bcc forces this file in before anything else. Of the kernel's own headers bcc's
 * helpers need these names only; all structures come from the UAPI.
 */
#ifndef KUBEWEIR_SHIM_KCONFIG_H
#define KUBEWEIR_SHIM_KCONFIG_H

#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;

#define htons(x) __builtin_bswap16(x)
#define ntohs(x) __builtin_bswap16(x)
#define htonl(x) __builtin_bswap32(x)
#define ntohl(x) __builtin_bswap32(x)

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define CONFIG_BPF_SYSCALL 1

#endif
