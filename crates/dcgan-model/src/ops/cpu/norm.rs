//! Batch norm and (leaky) ReLU of maps as they are read, their gradients, and a channel's mean and
//! variance.
//!
//! Sums over pixels are kept channel by channel, in the order of the pixels, and those of single
//! images are added up in double precision: no order depends on the width of vectors.

use pulp::Simd;

use super::super::EPSILON;

/// A batch norm with given statistics, and the (leaky) ReLU after it.
#[derive(Clone, Debug)]
pub(crate) struct BatchNorm {
    /// The mean of each channel, `[channels]`.
    pub(crate) mean: Vec<f32>,
    /// The biased variance of each channel, `[channels]`.
    pub(crate) variance: Vec<f32>,
    /// The factor of negative values in the (leaky) ReLU.
    pub(crate) negative_slope: f32,
}

/// A batch norm as one fused multiply-add per value: `z = (x - mean) factor + shift`. Each is
/// `[channels]`.
pub(crate) struct NormCoefficients {
    mean: Vec<f32>,
    /// Scale over standard deviation.
    factor: Vec<f32>,
    shift: Vec<f32>,
}

impl BatchNorm {
    /// The coefficients for trained `scale` (gamma) and `shift` (beta), `[channels]` each.
    pub(crate) fn coefficients(&self, scale: &[f32], shift: &[f32]) -> NormCoefficients {
        let factor = scale
            .iter()
            .zip(&self.variance)
            .map(|(scale, variance)| scale / (variance + EPSILON).sqrt());
        NormCoefficients {
            mean: self.mean.clone(),
            factor: factor.collect(),
            shift: shift.to_vec(),
        }
    }

    /// Normalises and activates whole pixels: `x` and `y` are `[pixels, channels]`.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(
        &self,
        simd: S,
        coefficients: &NormCoefficients,
        x: &[f32],
        y: &mut [f32],
    ) {
        let [mean, factor, shift] = coefficients.as_vectors::<S>();
        let slope = simd.splat_f32s(self.negative_slope);
        let pixels = S::as_simd_f32s(x).0.chunks_exact(mean.len());
        for (x, y) in pixels.zip(S::as_mut_simd_f32s(y).0.chunks_exact_mut(mean.len())) {
            for ((((x, y), mean), factor), shift) in
                x.iter().zip(y).zip(mean).zip(factor).zip(shift)
            {
                let z = simd.mul_add_f32s(simd.sub_f32s(*x, *mean), *factor, *shift);
                *y = leaky(simd, z, z, slope);
            }
        }
    }

    /// Begins a backward pass.
    pub(crate) fn backward<'a>(
        &'a self,
        coefficients: &'a NormCoefficients,
    ) -> BatchNormBackward<'a> {
        let channels = self.mean.len();
        BatchNormBackward {
            norm: self,
            coefficients,
            pixels: 0,
            image_sums: [vec![0.0; channels], vec![0.0; channels]],
            total_sums: [vec![0.0; channels], vec![0.0; channels]],
        }
    }
}

impl NormCoefficients {
    /// Mean, factor and shift as vectors.
    #[inline(always)]
    fn as_vectors<S: Simd>(&self) -> [&[S::f32s]; 3] {
        [
            S::as_simd_f32s(&self.mean).0,
            S::as_simd_f32s(&self.factor).0,
            S::as_simd_f32s(&self.shift).0,
        ]
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

/// The backward pass of a batch norm with (leaky) ReLU: the gradients with respect to the input,
/// the scale and the shift (Ioffe and Szegedy, ICML 2015, section 3).
///
/// The input's gradient depends on sums over all pixels of the batch, so it takes two passes:
/// [`BatchNormBackward::add_row`] for every row, then [`BatchNormBackward::finish`].
pub(crate) struct BatchNormBackward<'a> {
    norm: &'a BatchNorm,
    coefficients: &'a NormCoefficients,
    /// Pixels that were added so far.
    pixels: usize,
    /// Sums of `dz` and of `dz (x - mean)` over the present image, `[channels]` each.
    image_sums: [Vec<f32>; 2],
    /// The same over all images before it.
    total_sums: [Vec<f64>; 2],
}

impl BatchNormBackward<'_> {
    /// Computes `dz`, the gradient with respect to the activation's input, from `dy`, the gradient
    /// with respect to its output, and adds to the sums. All are `[pixels, channels]`; `x` is the
    /// batch norm's input.
    #[inline(always)]
    pub(crate) fn add_row<S: Simd>(&mut self, simd: S, x: &[f32], dy: &[f32], dz: &mut [f32]) {
        let [mean, factor, shift] = self.coefficients.as_vectors::<S>();
        let [sums, products] =
            self.image_sums.each_mut().map(|values| S::as_mut_simd_f32s(values).0);
        let slope = simd.splat_f32s(self.norm.negative_slope);
        let count = mean.len();
        let pixels =
            S::as_simd_f32s(x).0.chunks_exact(count).zip(S::as_simd_f32s(dy).0.chunks_exact(count));
        for ((x, dy), dz) in pixels.zip(S::as_mut_simd_f32s(dz).0.chunks_exact_mut(count)) {
            self.pixels += 1;
            for i in 0..count {
                let centred = simd.sub_f32s(x[i], mean[i]);
                let z = simd.mul_add_f32s(centred, factor[i], shift[i]);
                dz[i] = leaky(simd, z, dy[i], slope);
                sums[i] = simd.add_f32s(sums[i], dz[i]);
                products[i] = simd.mul_add_f32s(dz[i], centred, products[i]);
            }
        }
    }

    /// Adds an image's sums to the totals.
    pub(crate) fn end_image(&mut self) {
        for (totals, sums) in self.total_sums.iter_mut().zip(&mut self.image_sums) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += f64::from(*sum);
                *sum = 0.0;
            }
        }
    }

    /// Turns all `dz` into the gradient with respect to the input, in place, and returns the
    /// gradients with respect to the scale and the shift. `x` and `dz` are `[pixels, channels]` of
    /// all images.
    #[inline(always)]
    pub(crate) fn finish<S: Simd>(
        self,
        simd: S,
        x: &[f32],
        dz: &mut [f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let Self { norm, coefficients, pixels, total_sums: [sums, products], .. } = self;
        let channels = norm.mean.len();
        let deviation = |c: usize| f64::from(norm.variance[c] + EPSILON).sqrt();
        let d_scale = (0..channels).map(|c| (products[c] / deviation(c)) as f32).collect();
        let d_shift = sums.iter().map(|sum| *sum as f32).collect();

        // dx = factor (dz - mean of dz - (x - mean) / variance * mean of dz (x - mean))
        //    = dz factor + ((x - mean) slope + offset)
        let count = pixels as f64;
        let (mut offsets, mut slopes) = (Vec::new(), Vec::new());
        for c in 0..channels {
            let factor = f64::from(coefficients.factor[c]);
            offsets.push((-factor * sums[c] / count) as f32);
            slopes.push((-factor * products[c] / (count * deviation(c).powi(2))) as f32);
        }
        let [mean, factor, _] = coefficients.as_vectors::<S>();
        let (offsets, slopes) = (S::as_simd_f32s(&offsets).0, S::as_simd_f32s(&slopes).0);
        let pixels = S::as_simd_f32s(x).0.chunks_exact(mean.len());
        for (x, dz) in pixels.zip(S::as_mut_simd_f32s(dz).0.chunks_exact_mut(mean.len())) {
            for i in 0..mean.len() {
                let centred = simd.sub_f32s(x[i], mean[i]);
                let rest = simd.mul_add_f32s(centred, slopes[i], offsets[i]);
                dz[i] = simd.mul_add_f32s(dz[i], factor[i], rest);
            }
        }
        (d_scale, d_shift)
    }
}

/// The sums of which the channels' means and variances are made, image by image (Chan, Golub and
/// LeVeque, The American Statistician 37(3), 1983).
#[derive(Debug)]
pub(crate) struct ChannelSums {
    /// Pixels of an image.
    pixels: usize,
    images: Vec<ImageSums>,
    channels: usize,
}

/// The sums over an image's pixels, `[channels]` each.
#[derive(Debug)]
struct ImageSums {
    values: Vec<f32>,
    /// Squared distances from the image's own mean.
    squares: Vec<f32>,
}

impl ChannelSums {
    /// Sums over no images yet.
    pub(crate) fn new(channels: usize) -> Self {
        Self { pixels: 0, images: Vec::new(), channels }
    }

    /// Adds an image, `[pixels, channels]`.
    #[inline(always)]
    pub(crate) fn add_image<S: Simd>(&mut self, simd: S, image: &[f32]) {
        let [mut values, mut squares] = [vec![0.0; self.channels], vec![0.0; self.channels]];
        self.pixels = image.len() / self.channels;
        for_each_pixel::<S>(image, &mut values, |sum, _, x| simd.add_f32s(sum, x));
        let inverse = 1.0 / self.pixels as f32;
        let means: Vec<f32> = values.iter().map(|sum| sum * inverse).collect();
        let means = S::as_simd_f32s(&means).0;
        for_each_pixel::<S>(image, &mut squares, |sum, i, x| {
            let distance = simd.sub_f32s(x, means[i]);
            simd.mul_add_f32s(distance, distance, sum)
        });
        self.images.push(ImageSums { values, squares });
    }

    /// The mean and the biased variance of each channel, `[channels]` each.
    pub(crate) fn statistics(&self) -> [Vec<f32>; 2] {
        let channels = 0..self.channels;
        [
            channels.clone().map(|c| self.mean(c) as f32).collect(),
            channels.map(|c| self.variance(c) as f32).collect(),
        ]
    }

    /// Pixels of all images.
    fn all_pixels(&self) -> f64 {
        self.pixels as f64 * self.images.len() as f64
    }

    fn mean(&self, channel: usize) -> f64 {
        let sums = self.images.iter().map(|image| f64::from(image.values[channel]));
        sums.sum::<f64>() / self.all_pixels()
    }

    fn variance(&self, channel: usize) -> f64 {
        let (pixels, mean) = (self.pixels as f64, self.mean(channel));
        let squares = self.images.iter().map(|image| {
            // The squares around the image's own mean, moved to the mean of all images.
            let distance = f64::from(image.values[channel]) - pixels * mean;
            f64::from(image.squares[channel]) + distance.powi(2) / pixels
        });
        squares.sum::<f64>() / self.all_pixels()
    }
}

/// Updates one sum for each channel by every pixel of an image `[pixels, channels]`. `add` gets the
/// sum, the channels' index in vectors, and the pixel's values.
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
