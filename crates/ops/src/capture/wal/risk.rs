//! Whether what a server keeps for the slot may be removed before it is stored, or fill its disk.

use std::sync::Arc;
use std::time::Duration;

use mainstay_engine::{SlotHealth, SlotRetention};
use serde::Serialize;

use super::{WalCaptureContext, WalCaptureEvent};

/// Between two looks at the slot.
const LOOK: Duration = Duration::from_secs(10);

/// How often the same is said again, in looks.
const REPEAT: u32 = 30;

/// From this on it is said how much a server without a limit keeps.
const RETAINED_BYTES_HIGH: u64 = 1024 * 1024 * 1024;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotConcern {
    /// The server keeps all of it, without a limit: its disk may fill.
    Disk,
    /// Little more may be written before the server removes some of it.
    Limit,
    /// The server may remove some of it at its next checkpoint.
    Removal,
    /// The server has removed some of it.
    Lost,
}

/// A slot that gives concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SlotRisk {
    /// What may happen.
    pub concern: SlotConcern,
    /// How it stands.
    #[serde(flatten)]
    pub health: SlotHealth,
}

impl SlotRisk {
    /// The risk, if there is one.
    pub fn of(health: SlotHealth) -> Option<Self> {
        let SlotHealth { retention, retained_bytes, safe_bytes } = health;
        let concern = match (retention, safe_bytes) {
            (SlotRetention::Lost, _) => SlotConcern::Lost,
            (SlotRetention::Unreserved, _) => SlotConcern::Removal,
            // Three quarters of what may be kept are kept.
            (_, Some(safe)) if safe < retained_bytes / 3 => SlotConcern::Limit,
            (_, None) if retained_bytes >= RETAINED_BYTES_HIGH => SlotConcern::Disk,
            _ => return None,
        };
        Some(Self { concern, health })
    }
}

/// Looks now and then, and tells a risk when it comes up and while it stays. Ends when it is dropped.
pub(super) async fn watch(context: Arc<WalCaptureContext>, slot: String) {
    let mut told: Option<(SlotConcern, u32)> = None;
    loop {
        // A server that cannot be asked is told by whoever follows it.
        if let Ok(Some(health)) = context.source.slot_health(&slot).await {
            let risk = SlotRisk::of(health);
            told = match (risk, told) {
                (None, _) => None,
                (Some(risk), Some((concern, looks))) if concern == risk.concern && looks < REPEAT => {
                    Some((concern, looks + 1))
                }
                (Some(risk), _) => {
                    context.observer.event(&WalCaptureEvent::SlotRisk(risk));
                    Some((risk.concern, 0))
                }
            };
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_gives_concern_before_it_is_lost() {
        use SlotRetention::{Extended, Lost, Reserved, Unreserved};
        let gigabytes = |count: u64| count << 30;
        let cases = [
            (Reserved, 0, None, None),
            (Extended, gigabytes(1) - 1, None, None),
            (Extended, gigabytes(1), None, Some(SlotConcern::Disk)),
            (Extended, gigabytes(2), Some(gigabytes(1)), None),
            (Extended, gigabytes(3), Some(gigabytes(1) - 1), Some(SlotConcern::Limit)),
            (Reserved, 0, Some(0), None),
            (Unreserved, 1, Some(0), Some(SlotConcern::Removal)),
            (Lost, 0, None, Some(SlotConcern::Lost)),
        ];
        for (retention, retained_bytes, safe_bytes, concern) in cases {
            let health = SlotHealth { retention, retained_bytes, safe_bytes };
            assert_eq!(SlotRisk::of(health).map(|risk| risk.concern), concern, "{health:?}");
        }
    }
}
