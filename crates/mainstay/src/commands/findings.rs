//! How findings are shown, for every command that reports some: worst first, each with its remedy.

use mainstay_model::{Finding, Severity};

use crate::printer::{Look, Tone};

/// The findings as lines, worst first and otherwise in their order, and a line that counts them.
pub(crate) fn text(findings: &[Finding], look: &Look) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut text = String::new();
    for finding in sorted {
        let tone = match finding.severity {
            Severity::Note => Tone::Faint,
            Severity::Warning => Tone::Warn,
            Severity::Critical => Tone::Bad,
        };
        let word = look.paint(tone, &format!("{:8}", finding.severity.name()));
        text.push_str(&format!("{word}  {}  [{}]\n", finding.message, finding.id));
        text.push_str(&format!("          {} {}\n", look.paint(Tone::Faint, "at:"), finding.subject));
        text.push_str(&format!("          {} {}\n", look.paint(Tone::Faint, "remedy:"), finding.remedy));
    }
    text.push_str(&summary(findings, look));
    text
}

fn summary(findings: &[Finding], look: &Look) -> String {
    let count = |severity: Severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    if findings.is_empty() {
        return format!("{}\n", look.paint(Tone::Good, "no findings"));
    }
    let parts: Vec<String> = [Severity::Critical, Severity::Warning, Severity::Note]
        .into_iter()
        .filter(|severity| count(*severity) > 0)
        .map(|severity| match severity {
            Severity::Critical => format!("{} critical", count(severity)),
            other => plural(count(other), other.name()),
        })
        .collect();
    format!("{}\n", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_shown_worst_first() {
        let finding = |severity, id: &str| Finding {
            id: id.to_owned(),
            severity,
            store: None,
            subject: "h:1".to_owned(),
            message: "m".to_owned(),
            remedy: "r".to_owned(),
        };
        let findings =
            [finding(Severity::Note, "a"), finding(Severity::Critical, "b"), finding(Severity::Note, "c")];
        let expected = "\
critical  m  [b]
          at: h:1
          remedy: r
note      m  [a]
          at: h:1
          remedy: r
note      m  [c]
          at: h:1
          remedy: r
1 critical, 2 notes
";
        assert_eq!(text(&findings, &Look::default()), expected);
        assert_eq!(text(&[], &Look::default()), "no findings\n");
    }
}
