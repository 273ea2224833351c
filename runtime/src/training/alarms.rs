//! Signs that training does nothing, or not what it should.
//!
//! An alarm is a warning with a name, under which it is given once in a run. It stops nothing.

use super::parameters::{Flat, Kind, Parameters};
use serde_json::{Map, Value};

/// The alarms of update `step`, by name, from its gradient and from what is logged about it.
pub fn alarms(
    kind: Kind,
    step: u64,
    parameters: &Parameters,
    gradient: &Flat,
    row: &Map<String, Value>,
) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    // B is zero at first, and A then has no gradient.
    if step >= 2 {
        let zero = without_gradient(parameters, gradient);
        if let Some(first) = zero.first() {
            let all = parameters.list.len();
            let which = match zero.len() {
                1 => format!("{first} has no gradient: the loss does not depend on it"),
                count => format!(
                    "{count} of {all} matrices have no gradient, among them {first}: the loss does not \
                     depend on them"
                ),
            };
            out.push(("gradient", format!("update {step}: {which}")));
        }
    }
    let number = |name: &str| row.get(name).and_then(Value::as_f64);
    if kind != Kind::Dpo {
        return out;
    }
    if number("loss").is_some_and(|loss| loss < SATURATED) {
        let what =
            "the margin is saturated and nothing more is learned: lower dpo.beta, or stop here";
        out.push(("margin", format!("update {step}: {what}")));
    }
    if let (Some(chosen), Some(rejected)) = (number("chosen"), number("rejected"))
        && step >= SETTLED
        && rejected > 0.0
        && chosen > 0.0
    {
        let what = "the error of rejected clips rises while that of chosen ones does not fall: lower \
                    train.learning_rate, or set dpo.sft_weight";
        out.push(("rejected", format!("update {step}: {what}")));
    }
    out
}

/// A loss of preferences below which its derivative is a hundredth of what it was at first.
const SATURATED: f64 = 0.005;
/// Updates after which errors are more than the noise of single batches.
const SETTLED: u64 = 10;

/// The parameters whose gradient is zero everywhere.
fn without_gradient<'p>(parameters: &'p Parameters, gradient: &Flat) -> Vec<&'p str> {
    let zero = |parameter: &&super::parameters::Parameter| {
        parameters.values(gradient, parameter).iter().all(|value| *value == 0.0)
    };
    parameters.list.iter().filter(zero).map(|parameter| parameter.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::{DType, Tensor, TensorType};
    use serde_json::json;

    fn given(kind: Kind, step: u64, second: f32, row: &Value) -> Vec<&'static str> {
        let ty = TensorType::new(DType::F32, [2]);
        let parameters = Parameters::of([("a", &ty), ("b", &ty)], &[], None);
        let gradient = vec![Tensor::from_f32([4], &[0.0, second, 1.0, 0.0]).unwrap()];
        let row = row.as_object().unwrap();
        alarms(kind, step, &parameters, &gradient, row).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_matrix_without_a_gradient_is_named_from_the_second_update_on() {
        let row = json!({"loss": 1.0});
        assert_eq!(given(Kind::Lora, 1, 0.0, &row), [""; 0]);
        assert_eq!(given(Kind::Lora, 2, 0.0, &row), ["gradient"]);
        assert_eq!(given(Kind::Lora, 2, 1e-30, &row), [""; 0]);
    }

    #[test]
    fn preferences_that_saturate_or_go_wrong_are_told() {
        let row = |loss: f64, chosen: f64, rejected: f64| json!({"loss": loss, "chosen": chosen, "rejected": rejected});
        assert_eq!(given(Kind::Dpo, 2, 1.0, &row(0.001, -0.1, 0.1)), ["margin"]);
        assert_eq!(given(Kind::Dpo, 20, 1.0, &row(0.4, 0.1, 0.2)), ["rejected"]);
        assert_eq!(given(Kind::Dpo, 2, 1.0, &row(0.4, 0.1, 0.2)), [""; 0], "too early to tell");
        assert_eq!(given(Kind::Dpo, 20, 1.0, &row(0.4, -0.1, 0.2)), [""; 0]);
        assert_eq!(given(Kind::Lora, 20, 1.0, &row(0.001, 0.1, 0.2)), [""; 0]);
    }
}
