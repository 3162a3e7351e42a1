/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses: 16 bytes each, IPv4 in its mapped form (::ffff:a.b.c.d), so that both families take one path.
 */
#ifndef KUBEWEIR_ADDRESS_H
#define KUBEWEIR_ADDRESS_H

/* Addresses are written in the 8-byte words that are compared: a load that spans two fresh stores stalls the CPU. */
static __always_inline void map_v4(u8 *out, u32 address)
{
	u64 *words = (u64 *)out;

	words[0] = 0;
	words[1] = (u64)address << 32 | htonl(0xffff);
}

static __always_inline void copy_v6(u8 *out, const void *address)
{
	u64 *words = (u64 *)out;
	const u64 *from = address;

	words[0] = from[0];
	words[1] = from[1];
}

static __always_inline bool is_mapped(const u8 *address)
{
	const u64 *words = (const u64 *)address;

	return !words[0] && (u32)words[1] == htonl(0xffff);
}

static __always_inline bool equal(const u8 *a, const u8 *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;

	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline bool is_zero(const u8 *a)
{
	const u64 *x = (const u64 *)a;

	return !x[0] && !x[1];
}

static __always_inline bool is_link_local(const u8 *a)
{
	return a[0] == 0xfe && (a[1] & 0xc0) == 0x80;
}

/* ff00::/8, and in mapped form 224.0.0.0/4 and 255.255.255.255. */
static __always_inline bool is_multicast(const u8 *a)
{
	const u32 *words = (const u32 *)a;

	if (a[0] == 0xff)
		return 1;
	return is_mapped(a) && ((a[12] & 0xf0) == 0xe0 || words[3] == 0xffffffff);
}

#endif
