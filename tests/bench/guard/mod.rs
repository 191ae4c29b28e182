//! Whether the code on a record's path has become slower: instructions a record, counted by
//! callgrind, compared with figures that are committed beside this file.
//!
//! Each case is a process of its own under valgrind, twice: once with its work done a few times, once
//! with it done more often. The difference is what the work costs, without what goes before and
//! after it. Wall time has no part in it, so a busy machine gives the same figures.
//!
//! Figures are kept for each compiler, since each makes other code of the same source, and for
//! processors with and without AVX2, by which libraries choose among their own.

mod cases;
mod publishes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Subcommand, ValueEnum};

use crate::error::BenchError;
pub(crate) use cases::Case;
use cases::Threads;

/// How often a case's work is done in its two runs.
const FEW: u64 = 1;
const MANY: u64 = 3;
/// A figure may grow by so much without anybody saying why.
const GROWTH_MAX: f64 = 0.03;
/// What a thread does when it is woken depends on when that is, and on a busy machine adds a
/// hundredth or two. It never takes away, so the least of some counts is the one to compare.
const COUNTS: usize = 3;
/// What glibc chooses by the processor would be counted: the choice is that of the oldest that
/// Debian supports, everywhere.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2,-AVX,-ERMS,-FSRM,-BMI2,-LZCNT,-MOVBE";

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Guard {
    /// Fails if a figure has grown by more than 3 %
    Check(Figures),
    /// Writes the figures as they are now
    Accept(Figures),
    /// Does a case's work
    #[command(hide = true)]
    Work {
        /// Which
        case: Case,
        /// How often
        times: u64,
    },
}

/// Where the figures are.
#[derive(Args, Clone, Debug)]
pub(crate) struct Figures {
    /// The file of the figures
    #[arg(long, default_value = "tests/bench/guard/figures.json")]
    figures: PathBuf,
}

/// Instructions a record, by case, by compiler.
type Known = BTreeMap<String, BTreeMap<String, f64>>;

/// Runs as what was asked for.
pub(crate) fn run(guard: &Guard) -> Result<ExitCode, BenchError> {
    match guard {
        Guard::Check(Figures { figures }) => check(figures),
        Guard::Accept(Figures { figures }) => accept(figures),
        Guard::Work { case, times } => {
            case.work(*times)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(figures: &Path) -> Result<ExitCode, BenchError> {
    let compiler = compiler()?;
    let known = read(figures)?;
    let Some(known) = known.get(&compiler) else {
        let found = known.keys().cloned().collect::<Vec<_>>().join(", ");
        println!("no figures for {compiler}, only for {found}: make guard-accept");
        return Ok(ExitCode::FAILURE);
    };
    let mut is_good = true;
    println!("instructions a record, {compiler}");
    for case in Case::value_variants() {
        let name = name(*case);
        let Some(before) = known.get(&name) else {
            println!("{name:16} is new: make guard-accept");
            is_good = false;
            continue;
        };
        let now = least(*case, |now| now <= before * (1.0 + GROWTH_MAX))?;
        let growth = now / before - 1.0;
        let verdict = match growth > GROWTH_MAX {
            true => "SLOWER: make guard-accept, and say why in the commit",
            false if growth < -GROWTH_MAX => "faster: make guard-accept keeps it so",
            false => "",
        };
        is_good &= growth <= GROWTH_MAX;
        let percent = growth * 100.0;
        println!("{name:16} {now:9.1}  was {before:9.1}  {percent:+5.1} %  {verdict}");
    }
    Ok(match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn accept(figures: &Path) -> Result<ExitCode, BenchError> {
    let mut known = match figures.exists() {
        true => read(figures)?,
        false => Known::new(),
    };
    let count = |case: &Case| Ok((name(*case), least(*case, |_| false)?));
    let counted: Result<BTreeMap<_, _>, BenchError> =
        Case::value_variants().iter().map(count).collect();
    let counted = counted?;
    println!("{counted:#?}");
    known.insert(compiler()?, counted);
    let text = serde_json::to_string_pretty(&known)
        .map_err(|error| BenchError::io("write the figures")(error.into()))?;
    std::fs::write(figures, text + "\n").map_err(BenchError::io("write the figures"))?;
    Ok(ExitCode::SUCCESS)
}

fn read(figures: &Path) -> Result<Known, BenchError> {
    let text = std::fs::read_to_string(figures).map_err(BenchError::io("read the figures"))?;
    serde_json::from_str(&text).map_err(|_| BenchError::Figure {
        what: "the file of figures",
        found: text,
    })
}

/// The compiler on the path, which is the one that has made this program.
fn compiler() -> Result<String, BenchError> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .map_err(BenchError::io("ask the compiler for its version"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let field = |name| said.lines().find_map(|line| line.strip_prefix(name));
    match (field("release: "), field("LLVM version: "), field("host: ")) {
        (Some(release), Some(llvm), Some(host)) => {
            let lacks = if has_avx2() { "" } else { ", without AVX2" };
            Ok(format!("rustc {release}, LLVM {llvm}, {host}{lacks}"))
        }
        _ => Err(BenchError::Figure {
            what: "the compiler's version",
            found: said,
        }),
    }
}

/// Valgrind shows programs a processor of its own, with AVX2 if this one has it.
fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    has
}

fn name(case: Case) -> String {
    let value = case.to_possible_value().expect("none is hidden");
    value.get_name().to_owned()
}

/// The least of some counts, or the first that is good enough.
fn least(case: Case, is_enough: impl Fn(f64) -> bool) -> Result<f64, BenchError> {
    let mut least = f64::INFINITY;
    for _ in 0..COUNTS {
        least = least.min(counted(case)?);
        if is_enough(least) {
            break;
        }
    }
    Ok(least)
}

/// Instructions a record, with one decimal.
fn counted(case: Case) -> Result<f64, BenchError> {
    let more = instructions(case, MANY)? - instructions(case, FEW)?;
    let records = (MANY - FEW) as f64 * case.records() as f64;
    Ok((more / records * 10.0).round() / 10.0)
}

/// Instructions of a run of a case.
fn instructions(case: Case, times: u64) -> Result<f64, BenchError> {
    let itself = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let dir = tempfile::tempdir().map_err(BenchError::io("make a directory"))?;
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!(
            "--callgrind-out-file={}",
            dir.path().join("out").display()
        ))
        .args(["--separate-threads=yes", "--quiet"])
        .arg(itself)
        .args(["guard", "work", &name(case), &times.to_string()])
        .env("GLIBC_TUNABLES", TUNABLES)
        .output()
        .map_err(BenchError::io("start valgrind (tests/setup.sh valgrind)"))?;
    if !output.status.success() {
        return Err(BenchError::Program {
            program: "valgrind".to_owned(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let threads =
        std::fs::read_dir(dir.path()).map_err(BenchError::io("list callgrind's files"))?;
    let mut sum = 0.0;
    for file in threads {
        let file = file.map_err(BenchError::io("list callgrind's files"))?;
        // One more stands for the process, and is empty.
        let name = file.file_name().to_string_lossy().into_owned();
        let counts = match case.threads() {
            Threads::All => name.starts_with("out-"),
            Threads::First => name == "out-01",
        };
        if counts {
            sum += total(&file.path())?;
        }
    }
    Ok(sum)
}

/// The sum at the end of a thread's file.
fn total(path: &Path) -> Result<f64, BenchError> {
    let text = std::fs::read_to_string(path).map_err(BenchError::io("read callgrind's file"))?;
    let total = text.lines().rev().find_map(|line| {
        let total = line.strip_prefix("totals: ")?;
        total.split_whitespace().next()?.parse().ok()
    });
    total.ok_or(BenchError::Figure {
        what: "callgrind's total",
        found: path.display().to_string(),
    })
}
