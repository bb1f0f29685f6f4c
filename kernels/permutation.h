/* A keyed random permutation of [0, size): the images of 0 .. n - 1 are n different numbers, a
 * uniform draw without replacement, each found on its own and without memory of the others.
 *
 * A Feistel network permutes the smallest power of two that holds size; an image outside of
 * [0, size) is permuted again until it falls inside ("cycle walking").  The round keys come from
 * philox, so a draw depends on its coordinates alone and is the same on every backend.
 * Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains"; the round function is
 * the finaliser of MurmurHash3 (Appleby). */
#ifndef ATTNSCOPE_KERNELS_PERMUTATION_H
#define ATTNSCOPE_KERNELS_PERMUTATION_H

#include <stdint.h>

#include "kernels/philox.h"
#include "kernels/portable.h"

enum {
    PERMUTATION_ROUNDS = 8,
    PERMUTATION_MIN_BITS = 10 /* halves of fewer bits would mix too little */
};

struct permutation {
    uint32_t size;
    int left_bits, right_bits; /* of the network's two halves */
    uint32_t key[PERMUTATION_ROUNDS];
};

/* The permutation of [0, size), size > 0, for one draw. */
PORTABLE struct permutation permutation_make(uint32_t size, uint64_t seed, uint32_t layer,
                                             uint32_t head, uint32_t position, uint32_t slot)
{
    struct permutation p;
    p.size = size;
    int bits = PERMUTATION_MIN_BITS;
    while (bits < 32 && size > 1u << bits)
        bits++;
    p.left_bits = bits / 2;
    p.right_bits = bits - p.left_bits;
    for (uint32_t i = 0; i < PERMUTATION_ROUNDS / 4; i++) {
        struct philox draw = philox_4x32(seed, layer, head, position, slot * 2 + i);
        for (int j = 0; j < 4; j++)
            p.key[4 * i + (uint32_t)j] = draw.word[j];
    }
    return p;
}

PORTABLE uint32_t permutation_mix(uint32_t half, uint32_t key)
{
    uint32_t h = (half ^ key) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

/* One pass through the network: a permutation of [0, 2^(left_bits + right_bits)).  Without
 * branches, so that a loop over it is vectorised. */
PORTABLE uint32_t permutation_pass(const struct permutation *p, uint32_t x)
{
    uint32_t left_mask = (1u << p->left_bits) - 1, right_mask = (1u << p->right_bits) - 1;
    uint32_t right = x & right_mask, left = x >> p->right_bits;
    for (int i = 0; i < PERMUTATION_ROUNDS; i += 2) {
        left ^= permutation_mix(right, p->key[i]) & left_mask;
        right ^= permutation_mix(left, p->key[i + 1]) & right_mask;
    }
    return left << p->right_bits | right;
}

PORTABLE uint32_t permutation_image(const struct permutation *p, uint32_t x)
{
    do
        x = permutation_pass(p, x);
    while (x >= p->size);
    return x;
}

/* The images of 0 .. n - 1, in any order, n <= size. */
PORTABLE void permutation_draw(uint32_t *images, int n, const struct permutation *p)
{
    enum { BATCH = 64 };
    uint32_t walking[BATCH]; /* inputs, and images that fell outside */
    int n_walking = 0, n_started = 0, n_done = 0;
    while (n_done < n) {
        while (n_walking < BATCH && n_started < n)
            walking[n_walking++] = (uint32_t)n_started++;
        for (int i = n_walking; i < BATCH; i++)
            walking[i] = 0; /* computed and thrown away: the loop below has a fixed length */
        uint32_t passed[BATCH];
        for (int i = 0; i < BATCH; i++)
            passed[i] = permutation_pass(p, walking[i]);
        int n_outside = 0;
        for (int i = 0; i < n_walking; i++) {
            if (passed[i] < p->size)
                images[n_done++] = passed[i];
            else
                walking[n_outside++] = passed[i];
        }
        n_walking = n_outside;
    }
}

#endif
