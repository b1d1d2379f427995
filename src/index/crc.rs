//! CRC-32C (Castagnoli), as iSCSI and ext4 use it: every error within 32 bits of each other is found.

/// The polynomial, its bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// What four bits do to the remainder: a table of 64 bytes, for small flash.
const TABLE: [u32; 16] = {
    let mut table = [0u32; 16];
    let mut i = 0;
    while i < 16 {
        let mut remainder = i as u32;
        let mut bit = 0;
        while bit < 4 {
            remainder = (remainder >> 1) ^ if remainder & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[i] = remainder;
        i += 1;
    }
    table
};

/// A checksum in the making.
pub(super) struct Crc32c(u32);

impl Crc32c {
    /// Of nothing.
    pub fn new() -> Self {
        Self(u32::MAX)
    }

    /// Of `bytes` besides.
    pub fn add(self, bytes: &[u8]) -> Self {
        let four_bits = |crc: u32| (crc >> 4) ^ TABLE[(crc & 15) as usize];
        Self(bytes.iter().fold(self.0, |crc, &byte| four_bits(four_bits(crc ^ u32::from(byte)))))
    }

    /// The checksum.
    pub fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4, and the check value of the catalogue of CRC algorithms.
    #[test]
    fn published_vectors() {
        let ascending: [u8; 32] = core::array::from_fn(|i| i as u8);
        let descending: [u8; 32] = core::array::from_fn(|i| 31 - i as u8);
        let cases: [(&[u8], u32); 6] = [
            (b"123456789", 0xE306_9283),
            (&[0; 32], 0x8A91_36AA),
            (&[0xFF; 32], 0x62A8_AB43),
            (&ascending, 0x46DD_794E),
            (&descending, 0x113F_DB5C),
            (b"", 0),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Crc32c::new().add(bytes).finish(), expected, "{bytes:?}");
            let (head, tail) = bytes.split_at(bytes.len() / 3);
            assert_eq!(Crc32c::new().add(head).add(tail).finish(), expected, "{bytes:?} in two pieces");
        }
    }
}
