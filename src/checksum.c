/* The checksum of model files: CRC-32 of zlib and PNG, eight bytes a step (Intel's slicing-by-8). */
#include "model.h"

#include <string.h>

uint32_t gdml_crc32(const unsigned char *data, size_t size)
{
    uint32_t table[8][256], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t c = i;
        for (int k = 0; k < 8; ++k) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; ++i)
        for (int k = 1; k < 8; ++k) table[k][i] = table[0][table[k - 1][i] & 255] ^ (table[k - 1][i] >> 8);
    for (; size >= 8; size -= 8, data += 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= crc;
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
              table[3][high & 255] ^ table[2][high >> 8 & 255] ^ table[1][high >> 16 & 255] ^ table[0][high >> 24];
    }
    for (; size; --size, ++data) crc = table[0][(crc ^ *data) & 255] ^ (crc >> 8);
    return ~crc;
}
