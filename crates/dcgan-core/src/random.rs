//! Random numbers without a generator's state: every number is a function of a key.
//!
//! The state of an ordinary generator would have to be saved in checkpoints, moved together with a
//! shard, and never lost. Instead, Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011) turns (seed, purpose, item, time, index) into 128 random bits, on any
//! worker and in any order.
//!
//! Normal deviates are computed with Wichura's inverse of the normal distribution (algorithm AS
//! 241, Applied Statistics 37, 1988). It needs a logarithm; the one of the C library differs
//! between platforms, so there is one here that has the same bits everywhere.

/// The purpose of a stream of numbers. Streams of different purposes are independent.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// The initial weights. Item: the index of the tensor in its network.
    Weights,
    /// The split of the data set into partitions.
    Split,
    /// The order in which a shard walks through its partition. Item: shard; time: epoch.
    Order,
    /// The latent vectors of the training. Item: shard; time: step.
    Latents,
    /// The latent vectors of the run's grids of samples.
    Grid,
    /// The latent vectors of a sample that a client requests.
    Sample,
    /// The noise in the toy objective's targets. Item: shard; time: step and phase.
    Toy,
    /// Synthetic training data.
    Data,
    /// The faults of a chaos run.
    Chaos,
    /// The latent vectors of an evaluation. Item: piece. At time 1: the order of real images.
    Evaluation,
    /// The training of the classifier. Item: 0 for the order of the images, 1 for their shifts;
    /// time: epoch.
    Classifier,
    /// The shifts of images by augmentation. Item: shard; time: step and phase.
    Augmentation,
    /// The first vector of the power iteration for a spectral norm. Item: the index of the tensor
    /// in its network.
    SpectralNorm,
}

/// The random numbers of one key, addressed by index.
#[derive(Clone, Copy, Debug)]
pub struct RandomStream {
    /// Philox's key: the seed.
    key: [u32; 2],
    /// The upper three words of Philox's counter: purpose and item, then time. The lowest word
    /// counts the blocks of four numbers.
    counter_high: [u32; 3],
}

impl RandomStream {
    /// The stream of (seed, purpose, item, time). `item` must be below 2^24.
    pub fn new(seed: u64, purpose: Purpose, item: u32, time: u64) -> Self {
        debug_assert!(item < 1 << 24, "item {item} does not fit beside the purpose");
        let [time_low, time_high] = split(time);
        Self {
            key: split(seed),
            counter_high: [(purpose as u32) << 24 | item, time_low, time_high],
        }
    }

    /// The 32 random bits at `index` of the stream. `index` must be below 2^34.
    pub fn bits(&self, index: u64) -> u32 {
        self.block((index / 4) as u32)[(index % 4) as usize]
    }

    /// The first `n` numbers of the stream, uniform in [0, 1). Each is a multiple of 2^-24.
    pub fn uniforms(&self, n: usize) -> impl Iterator<Item = f32> + use<> {
        self.words(n).map(|bits| (bits >> 8) as f32 / (1 << 24) as f32)
    }

    /// The first `n` numbers of the stream as standard normal deviates, each within ±6.4.
    pub fn normals(&self, n: usize) -> impl Iterator<Item = f32> + use<> {
        // The probability (bits + 1/2) / 2^32 is neither 0 nor 1, where the quantile is infinite.
        self.words(n).map(|bits| normal_quantile((f64::from(bits) + 0.5) / 4_294_967_296.0) as f32)
    }

    /// A random permutation of `0..n`, each equally likely (the Fisher-Yates shuffle). `n` must be
    /// below 2^32.
    pub fn permutation(&self, n: usize) -> Vec<u32> {
        let mut items: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            let block = self.block(i as u32);
            let bits = u64::from(block[0]) << 32 | u64::from(block[1]);
            // Scale 64 bits to 0..=i. A remainder would favour small numbers more.
            let j = (u128::from(bits) * (i as u128 + 1)) >> 64;
            items.swap(i, j as usize);
        }
        items
    }

    /// The first `n` words of 32 bits.
    fn words(&self, n: usize) -> impl Iterator<Item = u32> + use<> {
        let stream = *self;
        (0..n.div_ceil(4) as u32).flat_map(move |counter| stream.block(counter)).take(n)
    }

    /// Block `counter`, which holds the words from `4 * counter` on.
    fn block(&self, counter: u32) -> [u32; 4] {
        let [a, b, c] = self.counter_high;
        philox4x32_10([counter, a, b, c], self.key)
    }
}

/// The low and the high half.
fn split(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// Philox with four words of 32 bits and ten rounds (Salmon et al., section 3.3).
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [lo0, hi0] = split(u64::from(counter[0]) * 0xD251_1F53);
        let [lo1, hi1] = split(u64::from(counter[2]) * 0xCD9E_8D57);
        counter = [hi1 ^ counter[1] ^ key[0], lo1, hi0 ^ counter[3] ^ key[1], lo0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// The quantile function of the standard normal distribution: the x with P(X < x) = p.
///
/// `p` must be above 0 and below 1. The relative error is about 1e-16 (AS 241, routine PPND16).
fn normal_quantile(p: f64) -> f64 {
    // In the centre a rational function of p - 1/2, outside one of sqrt(-ln p) of the nearer tail.
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * rational(&CENTRE, r);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    let r = (-ln(tail)).sqrt();
    let x = if r <= 5.0 { rational(&TAIL, r - 1.6) } else { rational(&FAR_TAIL, r - 5.0) };
    if q < 0.0 { -x } else { x }
}

/// The quotient of two polynomials in `r`.
fn rational([numerator, denominator]: &[[f64; 8]; 2], r: f64) -> f64 {
    polynomial(numerator, r) / polynomial(denominator, r)
}

/// Evaluates a polynomial by Horner's rule. The coefficients begin with the constant one.
fn polynomial(coefficients: &[f64; 8], r: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * r + coefficient)
}

/// The natural logarithm of a positive normal number, to about 4e-15.
///
/// With x = m * 2^e and m in [sqrt(1/2), sqrt(2)], ln x = 2 artanh((m - 1) / (m + 1)) + e ln 2. The
/// area tangent is a power series in s = (m - 1) / (m + 1), 2 (s + s^3 / 3 + s^5 / 5 + ...). Only
/// +, -, * and / in a fixed order are used, so the bits are the same on every platform.
fn ln(x: f64) -> f64 {
    // Take the number apart into a mantissa in [1, 2) and an exponent, then centre the mantissa
    // around 1, where the series converges fastest.
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..12).rev().fold(0.0, |sum, k| sum * (s * s) + 1.0 / f64::from(2 * k + 1));
    2.0 * s * series + exponent as f64 * std::f64::consts::LN_2
}

// Coefficients of AS 241, routine PPND16, each as [numerator, denominator] with the constant first.

/// For |p - 1/2| <= 0.425 (the paper's a and b).
const CENTRE: [[f64; 8]; 2] = [
    [
        3.387_132_872_796_366_5,
        133.141_667_891_784_38,
        1_971.590_950_306_551_3,
        13_731.693_765_509_46,
        45_921.953_931_549_87,
        67_265.770_927_008_7,
        33_430.575_583_588_13,
        2_509.080_928_730_122_7,
    ],
    [
        1.0,
        42.313_330_701_600_91,
        687.187_007_492_057_9,
        5_394.196_021_424_751,
        21_213.794_301_586_597,
        39_307.895_800_092_71,
        28_729.085_735_721_943,
        5_226.495_278_852_545,
    ],
];
/// For sqrt(-ln p) <= 5 (the paper's c and d).
const TAIL: [[f64; 8]; 2] = [
    [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        0.241_780_725_177_450_6,
        0.022_723_844_989_269_184,
        7.745_450_142_783_414e-4,
    ],
    [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        0.689_767_334_985_1,
        0.148_103_976_427_480_08,
        0.015_198_666_563_616_457,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ],
];
/// For sqrt(-ln p) > 5 (the paper's e and f).
const FAR_TAIL: [[f64; 8]; 2] = [
    [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        0.296_560_571_828_504_87,
        0.026_532_189_526_576_124,
        0.001_242_660_947_388_078_4,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ],
    [
        1.0,
        0.599_832_206_555_888,
        0.136_929_880_922_735_8,
        0.014_875_361_290_850_615,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_its_authors() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox4x32_10([!0; 4], [!0; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0]
            ),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn quantiles_match_tables_of_the_normal_distribution() {
        // Tables of the normal distribution, to 15 digits.
        for (p, x) in [
            (0.5, 0.0),
            (0.975, 1.959963984540054),
            (0.9, 1.2815515655446004),
            (1e-3, -3.090232306167813),
            (1e-9, -5.997807015007686),
        ] {
            assert!(
                (normal_quantile(p) - x).abs() < 1e-13,
                "{p}: {} instead of {x}",
                normal_quantile(p)
            );
        }
        // The smallest p that `normals` uses.
        assert!(normal_quantile(2f64.powi(-33)).abs() < 6.4);
    }

    #[test]
    fn logarithms_are_exact_to_the_last_digits() {
        for (x, expected) in
            [(0.075, -2.590_267_165_445_826_7), (1e-9, -20.723_265_836_946_414), (1.0, 0.0)]
        {
            assert!((ln(x) - expected).abs() <= 4e-15, "{x}: {}", ln(x));
        }
    }

    #[test]
    fn every_component_of_the_key_changes_the_stream() {
        let stream = RandomStream::new;
        let mut numbers = vec![
            stream(1, Purpose::Latents, 2, 3).bits(0),
            stream(2, Purpose::Latents, 2, 3).bits(0),
            stream(1, Purpose::Order, 2, 3).bits(0),
            stream(1, Purpose::Latents, 3, 3).bits(0),
            stream(1, Purpose::Latents, 2, 4).bits(0),
            stream(1, Purpose::Latents, 2, 3 + (1 << 32)).bits(0),
            stream(1, Purpose::Latents, 2, 3).bits(1),
        ];
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 7);
    }

    #[test]
    fn deviates_have_the_moments_of_their_distributions() {
        let stream = RandomStream::new(22, Purpose::Latents, 0, 1);
        let n = 100_000;
        let mean = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
        let normals: Vec<f32> = stream.normals(n).collect();
        let squares: Vec<f32> = normals.iter().map(|x| x * x).collect();
        assert!(mean(&normals).abs() < 0.01 && (mean(&squares) - 1.0).abs() < 0.02);
        let uniforms: Vec<f32> = stream.uniforms(n).collect();
        assert!((mean(&uniforms) - 0.5).abs() < 0.005);
        assert!(uniforms.iter().all(|u| (0.0..1.0).contains(u)));
    }

    #[test]
    fn a_permutation_holds_every_item_once() {
        for n in [0, 1, 2, 7500] {
            let mut items = RandomStream::new(22, Purpose::Order, 5, 1).permutation(n);
            if n == 7500 {
                assert_ne!(items[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
            }
            items.sort_unstable();
            assert_eq!(items, (0..n as u32).collect::<Vec<_>>());
        }
    }
}
