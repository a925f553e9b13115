//! Batch norm and (leaky) ReLU of maps as they are read, with the sums that both need.
//!
//! Sums over pixels are kept channel by channel, in the order of the pixels, and those of single images are added up in
//! double precision: no order depends on the width of vectors.

use pulp::Simd;

use super::super::EPSILON;

/// A batch norm with given statistics, and the (leaky) ReLU after it.
#[derive(Clone, Debug)]
pub(crate) struct BatchNorm {
    /// Of each channel.
    pub(crate) mean: Vec<f32>,
    /// Biased.
    pub(crate) variance: Vec<f32>,
    /// What negative numbers are multiplied by.
    pub(crate) slope: f32,
}

impl BatchNorm {
    /// Mean, factor and summand of each channel: `z = (x - mean) factor + summand`.
    pub(crate) fn terms(&self, scale: &[f32], shift: &[f32]) -> [Vec<f32>; 3] {
        let factor = scale
            .iter()
            .zip(&self.variance)
            .map(|(scale, variance)| scale / (variance + EPSILON).sqrt());
        [self.mean.clone(), factor.collect(), shift.to_vec()]
    }

    /// Normalises whole pixels.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(&self, simd: S, terms: &[Vec<f32>; 3], x: &[f32], y: &mut [f32]) {
        let [mean, factor, summand] = terms.each_ref().map(|values| S::as_simd_f32s(values).0);
        let slope = simd.splat_f32s(self.slope);
        let pixels = S::as_simd_f32s(x).0.chunks_exact(mean.len());
        for (x, y) in pixels.zip(S::as_mut_simd_f32s(y).0.chunks_exact_mut(mean.len())) {
            for ((((x, y), mean), factor), summand) in
                x.iter().zip(y).zip(mean).zip(factor).zip(summand)
            {
                let z = simd.mul_add_f32s(simd.sub_f32s(*x, *mean), *factor, *summand);
                *y = leaky(simd, z, z, slope);
            }
        }
    }

    /// Begins to add up gradients.
    pub(crate) fn gradients<'a>(&'a self, terms: &'a [Vec<f32>; 3]) -> BatchNormGradients<'a> {
        let channels = self.mean.len();
        BatchNormGradients {
            norm: self,
            terms,
            pixels: 0,
            image: [vec![0.0; channels], vec![0.0; channels]],
            total: [vec![0.0; channels], vec![0.0; channels]],
        }
    }
}

/// `value` where `z` is positive, and `value * slope` elsewhere.
#[inline(always)]
fn leaky<S: Simd>(simd: S, z: S::f32s, value: S::f32s, slope: S::f32s) -> S::f32s {
    simd.select_f32s(
        simd.greater_than_f32s(z, simd.splat_f32s(0.0)),
        value,
        simd.mul_f32s(value, slope),
    )
}

/// The gradients of a batch norm with (leaky) ReLU, by the input, the scale and the shift (Ioffe and Szegedy, ICML 2015,
/// section 3).
pub(crate) struct BatchNormGradients<'a> {
    norm: &'a BatchNorm,
    terms: &'a [Vec<f32>; 3],
    pixels: usize,
    /// Sums of `dz` and of `dz (x - mean)` over an image, and over all before.
    image: [Vec<f32>; 2],
    total: [Vec<f64>; 2],
}

impl BatchNormGradients<'_> {
    /// Takes the gradients by the output of whole pixels, `dy`, to those by what the ReLU was given, `dz`.
    #[inline(always)]
    pub(crate) fn add<S: Simd>(&mut self, simd: S, x: &[f32], dy: &[f32], dz: &mut [f32]) {
        let [mean, factor, summand] = self.terms.each_ref().map(|values| S::as_simd_f32s(values).0);
        let [sums, products] = self.image.each_mut().map(|values| S::as_mut_simd_f32s(values).0);
        let slope = simd.splat_f32s(self.norm.slope);
        let count = mean.len();
        let pixels =
            S::as_simd_f32s(x).0.chunks_exact(count).zip(S::as_simd_f32s(dy).0.chunks_exact(count));
        for ((x, dy), dz) in pixels.zip(S::as_mut_simd_f32s(dz).0.chunks_exact_mut(count)) {
            self.pixels += 1;
            for i in 0..count {
                let centred = simd.sub_f32s(x[i], mean[i]);
                let z = simd.mul_add_f32s(centred, factor[i], summand[i]);
                dz[i] = leaky(simd, z, dy[i], slope);
                sums[i] = simd.add_f32s(sums[i], dz[i]);
                products[i] = simd.mul_add_f32s(dz[i], centred, products[i]);
            }
        }
    }

    /// Adds an image's sums to the total.
    pub(crate) fn end_image(&mut self) {
        for (total, image) in self.total.iter_mut().zip(&mut self.image) {
            for (total, image) in total.iter_mut().zip(image) {
                *total += f64::from(std::mem::take(image));
            }
        }
    }

    /// Takes all `dz` to the gradients by the input, and returns those by the scale and the shift.
    #[inline(always)]
    pub(crate) fn finish<S: Simd>(
        self,
        simd: S,
        x: &[f32],
        dz: &mut [f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let Self { norm, terms: [mean, factor, _], pixels, total: [sums, products], .. } = self;
        let deviation = |c: usize| f64::from(norm.variance[c] + EPSILON).sqrt();
        let by_scale = (0..mean.len()).map(|c| (products[c] / deviation(c)) as f32).collect();
        let by_shift = sums.iter().map(|sum| *sum as f32).collect();
        // dx = factor (dz - mean of dz - (x - mean) / variance * mean of dz (x - mean))
        let count = pixels as f64;
        let of_channels =
            |f: &dyn Fn(usize) -> f64| (0..mean.len()).map(|c| f(c) as f32).collect::<Vec<_>>();
        let terms = of_channels(&|c| -f64::from(factor[c]) * sums[c] / count);
        let slopes =
            of_channels(&|c| -f64::from(factor[c]) * products[c] / (count * deviation(c).powi(2)));
        let [mean, factor, terms, slopes] =
            [mean, factor, &terms, &slopes].map(|values| S::as_simd_f32s(values).0);
        let pixels = S::as_simd_f32s(x).0.chunks_exact(mean.len());
        for (x, dz) in pixels.zip(S::as_mut_simd_f32s(dz).0.chunks_exact_mut(mean.len())) {
            for i in 0..mean.len() {
                let rest = simd.mul_add_f32s(simd.sub_f32s(x[i], mean[i]), slopes[i], terms[i]);
                dz[i] = simd.mul_add_f32s(dz[i], factor[i], rest);
            }
        }
        (by_scale, by_shift)
    }
}

/// The sums of which mean and variance are made, image by image: of the values, and of the squares of their distances
/// from the image's own mean (Chan, Golub and LeVeque, The American Statistician 37(3), 1983).
#[derive(Debug)]
pub(crate) struct Sums {
    pixels: usize,
    images: Vec<[Vec<f32>; 2]>,
    channels: usize,
}

impl Sums {
    pub(crate) fn new(channels: usize) -> Self {
        Self { pixels: 0, images: Vec::new(), channels }
    }

    /// Adds an image, `[pixels, channels]`.
    #[inline(always)]
    pub(crate) fn add<S: Simd>(&mut self, simd: S, image: &[f32]) {
        let [mut sums, mut squares] = [vec![0.0; self.channels], vec![0.0; self.channels]];
        self.pixels = image.len() / self.channels;
        for_each_pixel::<S>(image, &mut sums, |sum, _, x| simd.add_f32s(sum, x));
        let inverse = 1.0 / self.pixels as f32;
        let means: Vec<f32> = sums.iter().map(|sum| sum * inverse).collect();
        let means = S::as_simd_f32s(&means).0;
        for_each_pixel::<S>(image, &mut squares, |sum, i, x| {
            let distance = simd.sub_f32s(x, means[i]);
            simd.mul_add_f32s(distance, distance, sum)
        });
        self.images.push([sums, squares]);
    }

    /// Mean and biased variance of each channel.
    pub(crate) fn statistics(&self) -> [Vec<f32>; 2] {
        let pixels = self.pixels as f64;
        let all = pixels * self.images.len() as f64;
        let mean =
            |c: usize| self.images.iter().map(|[sums, _]| f64::from(sums[c])).sum::<f64>() / all;
        let variance = |c: usize| {
            let mean = mean(c);
            let distance = |[sums, _]: &[Vec<f32>; 2]| f64::from(sums[c]) - pixels * mean;
            let part =
                |image: &[Vec<f32>; 2]| f64::from(image[1][c]) + distance(image).powi(2) / pixels;
            self.images.iter().map(part).sum::<f64>() / all
        };
        [
            (0..self.channels).map(|c| mean(c) as f32).collect(),
            (0..self.channels).map(|c| variance(c) as f32).collect(),
        ]
    }
}

/// Adds something of every pixel to one sum for each channel.
#[inline(always)]
fn for_each_pixel<S: Simd>(
    image: &[f32],
    sums: &mut [f32],
    add: impl Fn(S::f32s, usize, S::f32s) -> S::f32s,
) {
    let sums = S::as_mut_simd_f32s(sums).0;
    for pixel in S::as_simd_f32s(image).0.chunks_exact(sums.len()) {
        for (i, (sum, x)) in sums.iter_mut().zip(pixel).enumerate() {
            *sum = add(*sum, i, *x);
        }
    }
}
