//! The ops against candle's own, composed; odd layouts, types and extents.

use candle_core::{DType, Device, Result, Tensor, Var};
use vq_candle::{assign, quantize};
use vq_kernels::NO_CODE;

/// Values that look random, the same in every run.
fn matrix(rows: usize, cols: usize, seed: usize) -> Result<Tensor> {
    let mut rng = vq_kernels::rng::Rng::new(seed as u64, 0);
    let values: Vec<f32> = (0..rows * cols).map(|_| rng.normal()).collect();
    Tensor::from_vec(values, (rows, cols), &Device::Cpu)
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

fn assert_close(got: &Tensor, expected: &Tensor) -> Result<()> {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (flat(got)?, flat(expected)?);
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(largest > 0.0, "zeros prove nothing");
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= 1e-5 * largest, "{got}, expected {expected}");
    }
    Ok(())
}

#[test]
fn gradients_equal_those_of_composed_ops() -> Result<()> {
    for (case, [codebook_weight, commitment_weight, scale]) in
        [[1.0, 0.25, 1.0], [0.3, 1.7, 200.0]].into_iter().enumerate()
    {
        let rows = Var::from_tensor(&matrix(60, 7, case)?)?;
        let codebook = Var::from_tensor(&matrix(20, 7, case + 10)?)?;
        let target = matrix(60, 7, case + 20)?;
        let total = |output: &Tensor, codebook: &Tensor, commitment: &Tensor| {
            let reconstruction = (output - &target)?.sqr()?.mean_all()?;
            ((reconstruction + (codebook * codebook_weight)?)? + (commitment * commitment_weight)?)? * scale
        };
        let quantized = quantize(&rows, &codebook)?;
        let got = total(&quantized.output, &quantized.codebook_loss, &quantized.commitment_loss)?;
        // The same by candle's own ops.
        let hit = codebook.index_select(&quantized.codes, 0)?;
        let output = (rows.as_tensor() + (hit.detach() - rows.detach())?)?;
        let codebook_loss = (rows.detach() - &hit)?.sqr()?.mean_all()?;
        let commitment_loss = (rows.as_tensor() - hit.detach())?.sqr()?.mean_all()?;
        let expected = total(&output, &codebook_loss, &commitment_loss)?;
        assert_close(&quantized.output, &output)?;
        assert_close(&got, &expected)?;
        let (got, expected) = (got.backward()?, expected.backward()?);
        for var in [&rows, &codebook] {
            assert_close(got.get(var).expect("a gradient"), expected.get(var).expect("a gradient"))?;
        }
    }
    Ok(())
}

#[test]
fn codes_are_the_nearest_in_any_layout() -> Result<()> {
    let (rows, codebook) = (matrix(90, 6, 1)?, matrix(33, 6, 2)?);
    let codes = assign(&rows, &codebook)?.to_vec1::<u32>()?;
    let differences = (rows.unsqueeze(1)?.broadcast_sub(&codebook.unsqueeze(0)?))?;
    let nearest = differences.sqr()?.sum(2)?.argmin(1)?.to_vec1::<u32>()?;
    assert_eq!(codes, nearest);
    let pass = |strided: bool| {
        let (rows, codebook) = (Var::from_tensor(&rows)?, Var::from_tensor(&codebook)?);
        // The same values, stored column after column.
        let view = |var: &Var| if strided { var.t()?.contiguous()?.t() } else { Ok(var.as_tensor().clone()) };
        let (x, e) = (view(&rows)?, view(&codebook)?);
        assert_eq!((x.is_contiguous(), e.is_contiguous()), (!strided, !strided));
        let quantized = quantize(&x, &e)?;
        let gradients = (quantized.output.sqr()?.sum_all()? + quantized.codebook_loss)?.backward()?;
        let gradient = |var: &Var| flat(gradients.get(var).expect("a gradient"));
        Result::Ok((quantized.codes.to_vec1::<u32>()?, gradient(&rows)?, gradient(&codebook)?))
    };
    let straight = pass(false)?;
    assert_eq!(straight, pass(true)?);
    assert_eq!(straight.0, codes);
    // A block of rows starts inside the storage.
    assert_eq!(assign(&rows.narrow(0, 10, 30)?, &codebook)?.to_vec1::<u32>()?, codes[10..40]);
    Ok(())
}

#[test]
fn other_float_types_are_widened_and_integers_refused() -> Result<()> {
    let codebook = matrix(20, 5, 3)?;
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let rows = Var::from_tensor(&matrix(40, 5, 4)?.to_dtype(dtype)?)?;
        let quantized = quantize(&rows, &codebook)?;
        let expected = quantize(&rows.to_dtype(DType::F32)?, &codebook)?;
        assert_eq!(quantized.codes.to_vec1::<u32>()?, expected.codes.to_vec1::<u32>()?);
        assert_eq!((quantized.output.dtype(), quantized.commitment_loss.dtype()), (dtype, DType::F32));
        assert_eq!(flat(&quantized.output)?, flat(&expected.output.to_dtype(dtype)?)?);
        let gradients = quantized.output.sum_all()?.backward()?;
        let at_rows = gradients.get(&rows).expect("a gradient");
        assert_eq!(at_rows.dtype(), dtype);
        assert!(flat(at_rows)?.iter().all(|&g| g == 1.0));
    }
    let integers = Tensor::zeros((4, 5), DType::U8, &Device::Cpu)?;
    assert!(quantize(&integers, &codebook).is_err() && assign(&codebook, &integers).is_err());
    Ok(())
}

#[test]
fn wrong_extents_are_errors_and_no_rows_are_none() -> Result<()> {
    let codebook = matrix(20, 5, 5)?;
    let empty = |rows, cols| Tensor::zeros((rows, cols), DType::F32, &Device::Cpu);
    let narrow = quantize(&matrix(4, 6, 6)?, &codebook).map(|_| ()).expect_err("6 is not 5").to_string();
    assert!(narrow.contains("is 6, expected 5"), "{narrow}");
    assert!(quantize(&matrix(4, 5, 6)?.flatten_all()?, &codebook).is_err());
    assert!(quantize(&matrix(4, 5, 6)?, &codebook.unsqueeze(0)?).is_err());
    assert!(quantize(&matrix(4, 5, 6)?, &empty(0, 5)?).is_err());
    assert!(quantize(&empty(4, 0)?, &empty(3, 0)?).is_err());
    let nothing = quantize(&empty(0, 5)?, &codebook)?;
    assert_eq!((nothing.output.dims(), nothing.codes.dims()), (&[0, 5][..], &[0][..]));
    assert_eq!(nothing.codebook_loss.to_scalar::<f32>()?, 0.0);
    Ok(())
}

#[test]
fn rows_that_are_not_finite_have_no_code_and_no_gradient() -> Result<()> {
    let mut values = flat(&matrix(6, 5, 7)?)?;
    (values[0], values[13], values[29]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let rows = Var::from_tensor(&Tensor::from_vec(values, (6, 5), &Device::Cpu)?)?;
    let codebook = Var::from_tensor(&matrix(20, 5, 8)?)?;
    let quantized = quantize(&rows, &codebook)?;
    let loss = ((quantized.output.sum_all()? + quantized.codebook_loss)? + quantized.commitment_loss)?;
    let gradients = loss.backward()?;
    let (codes, output) = (quantized.codes.to_vec1::<u32>()?, flat(&quantized.output)?);
    let [at_rows, at_codes] = [&rows, &codebook].map(|var| flat(gradients.get(var).expect("a gradient")));
    let at_rows = at_rows?;
    for row in 0..6 {
        let bad = [0, 2, 5].contains(&row);
        assert_eq!(codes[row] == NO_CODE, bad);
        assert_eq!(output[row * 5..][..5].iter().all(|&x| x == 0.0), bad);
        assert_eq!(at_rows[row * 5..][..5].iter().all(|&x| x == 0.0), bad);
    }
    assert!(loss.to_scalar::<f32>()?.is_finite() && at_codes?.iter().chain(&at_rows).all(|x| x.is_finite()));
    Ok(())
}
