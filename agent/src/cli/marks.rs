//! Packet marks, and how the node routes by them.

use std::num::ParseIntError;

use clap::Args;
use weft_datapath::{Marks, NodeSettings, PROXY_RULE_PREFERENCE, PROXY_TABLE};

/// Packet marks and the node's routing by them. Change them where something
/// else on the node uses the usual ones; connections through the proxy end
/// when they change.
#[derive(Debug, Clone, Args, PartialEq, Eq)]
pub struct MarkArgs {
    /// Bits of packet marks that belong to weft; the three marks lie in them.
    #[arg(long, env = "WEFT_MARK_MASK", value_parser = number, default_value = "0xf00")]
    pub mark_mask: u32,
    /// Mark of packets on their way to the proxy.
    #[arg(long, env = "WEFT_MARK_TO_PROXY", value_parser = number, default_value = "0x200")]
    pub mark_to_proxy: u32,
    /// Mark of packets that the proxy sends; the proxy is told.
    #[arg(long, env = "WEFT_MARK_FROM_PROXY", value_parser = number, default_value = "0xa00")]
    pub mark_from_proxy: u32,
    /// Mark of pods' packets that leave the node as they are.
    #[arg(long, env = "WEFT_MARK_JUDGED", value_parser = number, default_value = "0xf00")]
    pub mark_judged: u32,
    /// Routing table that takes packets marked for the proxy to its socket.
    #[arg(long, env = "WEFT_PROXY_TABLE", default_value_t = PROXY_TABLE)]
    pub proxy_table: u32,
    /// Preference of the routing rule that leads there.
    #[arg(long, env = "WEFT_PROXY_RULE_PREFERENCE", default_value_t = PROXY_RULE_PREFERENCE)]
    pub proxy_rule_preference: u32,
}

/// A flag that asks for something impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} (or WEFT_{}): {reason}", .flag.replace('-', "_").to_uppercase())]
pub struct MarkArgsError {
    flag: &'static str,
    reason: String,
}

impl MarkArgs {
    /// The marks.
    ///
    /// # Errors
    /// The first flag that asks for something impossible.
    pub fn marks(&self) -> Result<Marks, MarkArgsError> {
        let mask = self.mark_mask;
        let refused = |flag, reason| Err(MarkArgsError { flag, reason });
        let mut others: Vec<(&str, u32)> = Vec::new();
        for (flag, mark) in [
            ("mark-to-proxy", self.mark_to_proxy),
            ("mark-from-proxy", self.mark_from_proxy),
            ("mark-judged", self.mark_judged),
        ] {
            if mark == 0 || mark & !mask != 0 {
                let reason = format!(
                    "must have bits of --mark-mask, {mask:#x}, and no others, not {mark:#x}"
                );
                return refused(flag, reason);
            }
            if let Some((other, _)) = others.iter().find(|(_, other)| *other == mark) {
                return refused(flag, format!("must not be --{other}, {mark:#x}"));
            }
            others.push((flag, mark));
        }
        let marks = Marks {
            mask,
            to_proxy: self.mark_to_proxy,
            from_proxy: self.mark_from_proxy,
            judged: self.mark_judged,
        };
        let settings = NodeSettings::new(&marks);
        if let Err(error) = settings.routing(self.proxy_table, PROXY_RULE_PREFERENCE) {
            return refused("proxy-table", error.to_string());
        }
        if let Err(error) = settings.routing(self.proxy_table, self.proxy_rule_preference) {
            return refused("proxy-rule-preference", error.to_string());
        }
        Ok(marks)
    }
}

/// A number as marks are written: `0xf00` or `3840`.
fn number(text: &str) -> Result<u32, ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Role};
    use super::*;

    fn parsed(flags: &[&str]) -> Result<MarkArgs, clap::Error> {
        let words = ["weft-agent", "run", "--node", "a"];
        let cli = Cli::try_parse_from(words.iter().chain(flags))?;
        match cli.role {
            Role::Run(args) => Ok(args.marks),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn marks_are_the_datapaths_unless_told_otherwise() {
        assert_eq!(parsed(&[]).unwrap().marks(), Ok(Marks::default()));
        let flags = [
            "--mark-mask=0xf0000",
            "--mark-to-proxy=65536",
            "--mark-from-proxy=0x20000",
            "--mark-judged=0xf0000",
        ];
        let expected = Marks {
            mask: 0xf_0000,
            to_proxy: 0x1_0000,
            from_proxy: 0x2_0000,
            judged: 0xf_0000,
        };
        assert_eq!(parsed(&flags).unwrap().marks(), Ok(expected));
        let wrong = parsed(&["--mark-mask", "0xyz"]).unwrap_err().to_string();
        assert!(wrong.contains("'0xyz' for '--mark-mask"), "{wrong}");
    }

    #[test]
    fn what_is_impossible_is_refused_by_its_flag() {
        for (flag, reason) in [
            (
                "--mark-to-proxy=0x1200",
                "must have bits of --mark-mask, 0xf00, and no others, not 0x1200",
            ),
            ("--mark-from-proxy=0", "and no others, not 0x0"),
            (
                "--mark-from-proxy=0x200",
                "must not be --mark-to-proxy, 0x200",
            ),
            ("--mark-judged=0x200", "must not be --mark-to-proxy, 0x200"),
            ("--proxy-table=254", "is the kernel's own, take another"),
            ("--proxy-rule-preference=0", "0 is not between 1 and 32765"),
        ] {
            let error = parsed(&[flag]).unwrap().marks().unwrap_err().to_string();
            let flag = flag.split('=').next().unwrap();
            assert!(
                error.starts_with(flag) && error.ends_with(reason),
                "{error}"
            );
        }
        let error = parsed(&["--mark-from-proxy=0"]).unwrap().marks();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("(or WEFT_MARK_FROM_PROXY): "), "{error}");
    }
}
