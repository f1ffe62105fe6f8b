//! `man [COMMAND…]`: a manual page in roff, made from the command tree itself.

use clap::Args;
use mainstay_model::{Error, ErrorKind, Result};

use super::completions::Script;
use crate::args;

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The command whose page is wanted, such as `backup create`; all of Mainstay when left out
    command: Vec<String>,
}

/// Makes the page.
///
/// # Errors
/// `Usage` when there is no such command.
pub(crate) fn run(args: &ManArgs) -> Result<Script> {
    let mut tree = args::tree();
    tree.build();
    let mut command = &tree;
    for name in &args.command {
        command = command.find_subcommand(name).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("there is no command `{}`", args.command.join(" ")))
                .with_hint("`mainstay help` lists the commands")
        })?;
    }
    let title = std::iter::once("mainstay")
        .chain(args.command.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join("-");
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(title.to_uppercase()).render(&mut page).map_err(
        |source| Error::new(ErrorKind::Internal, "the manual page cannot be made").with_source(source),
    )?;
    Ok(Script(String::from_utf8_lossy(&page).into_owned()))
}
