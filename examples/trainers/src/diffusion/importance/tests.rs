use super::LossSampler;

#[test]
fn steps_are_drawn_by_their_losses_once_all_are_known() {
    let mut sampler = LossSampler::new(4);
    assert_eq!(sampler.probabilities(), [0.25; 4]);
    let (t, weights) = sampler.draw(1, 0, 1000);
    assert!(weights.iter().all(|&weight| weight == 1.0));
    assert!((0..4).all(|step| t.iter().filter(|&&at| at == step).count() > 180));
    // Eleven losses each: the first is forgotten, and what is not finite was never there.
    for round in 0..11 {
        let loss = if round == 0 { 1e6 } else { 1.0 };
        sampler.remember(&[0, 1, 2, 3, 9], &[loss, 2.0 * loss, 3.0 * loss, 4.0 * loss, 1.0]);
        sampler.remember(&[0], &[f32::NAN]);
    }
    let probabilities = sampler.probabilities();
    for (step, p) in probabilities.iter().enumerate() {
        let expected = 0.999 * (step as f64 + 1.0) / 10.0 + 0.001 / 4.0;
        assert!((p - expected).abs() < 1e-12, "{p} for {expected}");
    }
    let (t, weights) = sampler.draw(2, 5, 20_000);
    assert_eq!(sampler.draw(2, 5, 7).0, t[..7]);
    for (&t, &weight) in t.iter().zip(&weights) {
        assert!((f64::from(weight) * 4.0 * probabilities[t] - 1.0).abs() < 1e-6);
    }
    // The weighted mean is that of uniform draws: of t itself, 1.5.
    let mean = t.iter().zip(&weights).map(|(&t, weight)| t as f64 * f64::from(*weight)).sum::<f64>() / 20_000.0;
    assert!((mean - 1.5).abs() < 0.03, "{mean}");
}

/// Half of the steps known, and none of one.
#[test]
fn what_was_remembered_goes_through_a_checkpoint() {
    let mut sampler = LossSampler::new(3);
    for loss in 0..14 {
        sampler.remember(&[0, 2], &[loss as f32 / 3.0, 1e-30]);
        sampler.remember(&[2], &[-0.1]);
    }
    let bytes = sampler.to_bytes();
    let mut other = LossSampler::new(3);
    other.restore(&bytes).expect("three steps");
    assert_eq!(other, sampler);
    let mut damaged = bytes.clone();
    damaged[0] = 11;
    for bytes in [&bytes[1..], &bytes[..2 * bytes.len() / 3], &damaged, &[]] {
        assert!(other.restore(bytes).is_err(), "{} bytes", bytes.len());
    }
    assert_eq!(other, sampler, "what is refused changes nothing");
}
