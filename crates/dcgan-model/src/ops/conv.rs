use burn::tensor::{Int, Tensor, TensorData, s};

/// x [C,N,H,W] -> patches [C*9, N*H'*W']
pub fn patches(x: Tensor<4>, stride: usize) -> (Tensor<2>, [usize; 2]) {
    let [c, n, h, w] = x.dims();
    let dev = x.device();
    let (ho, wo) = (h.div_ceil(stride), w.div_ceil(stride));
    let before = |size: usize, out: usize| (((out - 1) * stride + 3) - size) / 2;
    let (ph, pw) = (before(h, ho), before(w, wo));
    let mut idx = Vec::with_capacity(9 * ho * wo);
    for a in 0..3 {
        for b in 0..3 {
            for i in 0..ho {
                for j in 0..wo {
                    let (y, x) = ((i * stride + a) as isize - ph as isize, (j * stride + b) as isize - pw as isize);
                    let inside = y >= 0 && x >= 0 && (y as usize) < h && (x as usize) < w;
                    idx.push(if inside { y as i64 * w as i64 + x as i64 } else { (h * w) as i64 });
                }
            }
        }
    }
    let idx = Tensor::<1, Int>::from_data(TensorData::new(idx, [9 * ho * wo]), &dev.clone().without_autodiff());
    let x = Tensor::cat(vec![x.reshape([c * n, h * w]), Tensor::zeros([c * n, 1], &dev)], 1);
    let p = x.select(1, idx).reshape([c, n, 9, ho * wo]).swap_dims(1, 2).reshape([c * 9, n * ho * wo]);
    (p, [ho, wo])
}

pub fn conv3x3(x: Tensor<4>, w: Tensor<4>, stride: usize) -> Tensor<4> {
    let [c, n, _, _] = x.dims();
    let o = w.dims()[0];
    let (p, [ho, wo]) = patches(x, stride);
    w.reshape([o, c * 9]).matmul(p).reshape([o, n, ho, wo])
}

/// A convolution to one channel: nine products first, then nine shifted sums of single-channel maps.
pub fn conv3x3_to_one(x: Tensor<4>, w: Tensor<4>) -> Tensor<4> {
    let [c, n, h, wd] = x.dims();
    let dev = x.device();
    let taps = w.reshape([c, 9]).transpose().matmul(x.reshape([c, n * h * wd])).reshape([9, n, h, wd]);
    let z = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &dev);
    let taps = Tensor::cat(vec![z([9, n, h, 1]), taps, z([9, n, h, 1])], 3);
    let taps = Tensor::cat(vec![z([9, n, 1, wd + 2]), taps, z([9, n, 1, wd + 2])], 2);
    (0..9)
        .map(|k| {
            let (a, b) = (k / 3, k % 3);
            taps.clone().slice(s![k..k + 1, .., a..a + h, b..b + wd])
        })
        .reduce(|a, b| a + b)
        .unwrap()
}
