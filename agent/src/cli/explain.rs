//! `sidestep explain CODE`: the page of a code, as it stands in the docs.

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{Exit, text};
use crate::engine::Code;

/// Options of `sidestep explain`.
#[derive(Debug, Args)]
pub struct Options {
    /// Code of a finding.
    #[arg(value_parser = code_parser())]
    code: Code,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Exit> {
    text::print(options.code.page().trim_end())?;
    text::print("\n")?;
    Ok(Exit::Ok)
}

/// Parses a code; clap suggests the nearest one and lists all when there is none.
pub(super) fn code_parser() -> impl TypedValueParser<Value = Code> {
    PossibleValuesParser::new(Code::ALL.iter().map(|code| code.as_str())).try_map(|name| {
        let found = Code::ALL.iter().copied().find(|code| code.as_str() == name);
        found.ok_or("not a code")
    })
}
