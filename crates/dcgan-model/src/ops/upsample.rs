use burn::tensor::{Tensor, TensorData, s};

/// x [C,N,H,W], w [O,C,3,3] -> [O,N,2H,2W]
pub fn upsample_conv3x3(x: Tensor<4>, w: Tensor<4>) -> Tensor<4> {
    let [c, n, h, wd] = x.dims();
    let o = w.dims()[0];
    let dev = x.device();
    // rows/cols: S, g0, g2
    let one: [[f32; 3]; 3] = [[1., 1., 1.], [-1., 0., 0.], [0., 0., 1.]];
    let mut t = vec![0f32; 81];
    for a in 0..3 {
        for b in 0..3 {
            for i in 0..3 {
                for j in 0..3 {
                    t[(i * 3 + j) * 9 + a * 3 + b] = one[a][i] * one[b][j];
                }
            }
        }
    }
    let t = Tensor::<2>::from_data(TensorData::new(t, [9, 9]), &dev);
    let v = w.reshape([o * c, 9]).matmul(t).transpose().reshape([9 * o, c]); // [9*O, C], index (row a, col b)
    let part = |k0: usize, k: usize| v.clone().slice(s![k0 * o..(k0 + k) * o, ..]);
    let z = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &dev);
    let diff_w = |x: Tensor<4>| {
        let [c, n, h, w] = x.dims();
        let p = Tensor::cat(vec![z([c, n, h, 1]), x, z([c, n, h, 1])], 3);
        p.clone().slice(s![.., .., .., 1..w + 2]) - p.slice(s![.., .., .., 0..w + 1])
    };
    let dv = {
        let p = Tensor::cat(vec![z([c, n, 1, wd]), x.clone(), z([c, n, 1, wd])], 2);
        p.clone().slice(s![.., .., 1..h + 2, ..]) - p.slice(s![.., .., 0..h + 1, ..])
    };
    // Both columns of a row product: even = P - ..., odd = P + ...
    let columns = |x: Tensor<4>, base: usize| {
        let [_, _, h, w] = x.dims();
        let p = part(base, 1).matmul(x.clone().reshape([c, n * h * w])).reshape([o, n, h, w]);
        let d = part(base + 1, 2).matmul(diff_w(x).reshape([c, n * h * (w + 1)])).reshape([2, o, n, h, w + 1]);
        let even = p.clone() + d.clone().slice(s![0..1, .., .., .., 0..w]).reshape([o, n, h, w]);
        let odd = p + d.slice(s![1..2, .., .., .., 1..w + 1]).reshape([o, n, h, w]);
        Tensor::stack::<5>(vec![even, odd], 0).permute([1, 2, 3, 4, 0]).reshape([o, n, h, 2 * w])
    };
    let base = columns(x, 0);
    let up = columns(dv.clone(), 3).slice(s![.., .., 0..h, ..]);
    let down = columns(dv, 6).slice(s![.., .., 1..h + 1, ..]);
    Tensor::stack::<5>(vec![base.clone() + up, base + down], 0).permute([1, 2, 3, 0, 4]).reshape([o, n, 2 * h, 2 * wd])
}
