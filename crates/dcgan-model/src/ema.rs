//! The exponential moving average (EMA) of the generator.
//!
//! The weights of a GAN circle around an equilibrium that they do not reach, and an average over
//! the last few hundred steps draws better images than any of its terms (Yazici et al., "The
//! Unusual Effectiveness of Averaging in GAN Training", ICLR 2019). Nothing reads the average
//! during the training, so the training has the same bits with and without it. It is a part of the
//! state all the same: so it is copied, checked, saved and resumed like everything else.

use dcgan_core::spec::RunSpec;
use dcgan_core::spec::networks::EMA_PREFIX;
use dcgan_core::state::{Layout, State};

use crate::device::ExecutionDevice;
use crate::layout::NetworkTensors;

/// A tensor of the generator and its moving average, by their indices in the layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AveragedTensor {
    tensor: usize,
    average: usize,
}

impl AveragedTensor {
    /// Finds the averages of a network's tensors. There are none if the layout has none.
    pub(crate) fn all_of(network: &NetworkTensors, layout: &Layout) -> Vec<Self> {
        let weights = network.trained.iter().map(|tensor| tensor.weight);
        let tensors = weights.chain(network.running.iter().copied());
        let with_average = tensors.filter_map(|tensor| {
            let average = layout.find(&average_of(&layout.tensors()[tensor].name))?;
            Some(Self { tensor, average })
        });
        with_average.collect()
    }

    /// Sets the average to the tensor's values.
    pub(crate) fn begin(self, state: &mut State) {
        let values = state.tensor(self.tensor).to_vec();
        state.tensor_mut(self.average).copy_from_slice(&values);
    }
}

/// The name of a tensor's moving average.
pub(crate) fn average_of(name: &str) -> String {
    format!("{EMA_PREFIX}{name}")
}

/// The part of the way that the averages go towards the values in one update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ema(f32);

impl Ema {
    /// The update with number `time`, counted from 1. The decay begins small, so that the initial
    /// weights are soon forgotten: min(decay, (1 + t) / (10 + t)), as in TensorFlow
    /// (`ExponentialMovingAverage` with `num_updates`).
    pub(crate) fn new(spec: &RunSpec, time: u64) -> Self {
        let rising = (1.0 + time as f64) / (10.0 + time as f64);
        Self((1.0 - spec.ema_decay().min(rising)) as f32)
    }

    /// Moves the averages of tensors towards their values.
    pub(crate) fn update(
        self,
        state: &mut State,
        tensors: &[AveragedTensor],
        device: &ExecutionDevice,
    ) {
        if tensors.is_empty() {
            return;
        }
        // A clone shares all values.
        let updated = state.clone();
        for &AveragedTensor { tensor, average } in tensors {
            let values = updated.tensor(tensor);
            state.replace([average], |block, [old], [new]| {
                new.extend_from_slice(old);
                device.run(|| self.update_block(&mut new[block.clone()], &values[block]));
            });
        }
    }

    /// Moves a block of averages towards values.
    #[inline(always)]
    fn update_block(self, averages: &mut [f32], values: &[f32]) {
        for (average, value) in averages.iter_mut().zip(values) {
            *average += self.0 * (value - *average);
        }
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Digest, Step};
    use dcgan_core::objective::Objective;
    use dcgan_core::spec::DatasetInfo;
    use dcgan_core::spec::sharding::Partition;
    use dcgan_core::train::{Shard, train_step};

    use super::*;
    use crate::{Dcgan, DeviceChoice};

    const DATA: DatasetInfo = DatasetInfo { images: 4, rows: 28, columns: 28, digest: Digest(0) };

    /// The initial state of a small training, and the states after each of its steps.
    fn states(ema_decay: f64, steps: Step) -> Vec<State> {
        let builder = RunSpec::builder().batch_size(2).shards(1).ema_decay(ema_decay);
        let dcgan = Dcgan::new(builder.build(DATA).unwrap(), DeviceChoice::default()).unwrap();
        let pixels = (0..DATA.images * 28 * 28).map(|i| (i * i / 97) as u8).collect();
        let partition = Partition::new(28 * 28, pixels);
        let mut shards = Shard::all(1, |_| &partition);
        let mut states = vec![dcgan.initial_state()];
        for step in 1..=steps {
            let mut state = states[states.len() - 1].clone();
            train_step(&dcgan, &mut shards, &mut state, step, |_, _| {});
            states.push(state);
        }
        states
    }

    /// The values of a tensor after each step, if the states have the tensor.
    fn values<'a>(states: &'a [State], name: &str) -> Option<Vec<&'a [f32]>> {
        let index = states[0].layout().find(name)?;
        Some(states.iter().map(|state| state.tensor(index)).collect())
    }

    #[test]
    fn every_tensor_of_the_generator_is_averaged_and_the_training_is_as_without() {
        let (with, without) = (states(0.3, 3), states(0.0, 3));
        let mut averages = 0;
        for info in without[0].layout().tensors() {
            let trained = values(&with, &info.name).unwrap();
            assert_eq!(Some(&trained), values(&without, &info.name).as_ref(), "{}", info.name);
            let found = values(&with, &average_of(&info.name));
            assert_eq!(found.is_some(), info.name.starts_with("generator."), "{}", info.name);
            let Some(found) = found else { continue };
            averages += 1;
            let mut expected: Vec<f64> = trained[0].iter().map(|&w| w.into()).collect();
            // (1 + t) / (10 + t) exceeds the decay with the third update.
            for (step, decay) in [(1, 2.0 / 11.0), (2, 3.0 / 12.0), (3, 0.3)] {
                for (average, &w) in expected.iter_mut().zip(trained[step]) {
                    *average = decay * *average + (1.0 - decay) * f64::from(w);
                }
                let pairs = expected.iter().zip(found[step]);
                let off = pairs.map(|(a, &b)| (a - f64::from(b)).abs()).fold(0.0, f64::max);
                assert!(off < 1e-6, "{} is off by {off} after step {step}", info.name);
            }
        }
        assert_eq!(averages, 22);
    }

    /// `tf.train.ExponentialMovingAverage(0.5, num_updates=t)` by its definition in float64, for a
    /// variable that begins at 1 and is then 2, 4, 8, ...
    #[test]
    fn the_decay_rises_to_the_one_that_was_given() {
        let builder = RunSpec::builder().batch_size(2).shards(1).ema_decay(0.5);
        let spec = builder.build(DATA).unwrap();
        let (mut average, mut expected) = ([1.0], 1.0f64);
        for time in 1..=12 {
            let value = 2f32.powi(time as i32);
            Ema::new(&spec, time).update_block(&mut average, &[value]);
            let t = time as f64;
            let decay = if time < 8 { (1.0 + t) / (10.0 + t) } else { 0.5 };
            expected = decay * expected + (1.0 - decay) * f64::from(value);
            let error = f64::from(average[0]) / expected - 1.0;
            assert!(error.abs() < 1e-6, "update {time}: {} instead of {expected}", average[0]);
        }
    }
}
