//! Work that goes on beside the sessions for as long as the server runs. Only a defect ends it before; this tells of that, so that
//! the server ends in order and is started anew, rather than go on without revoking tokens or writing statistics.

use tokio_util::sync::CancellationToken;

/// Raised once watched work has panicked. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarm(CancellationToken);

impl Alarm {
    /// Runs `work`, which the log knows as `name`.
    pub(super) fn watch<W: Future>(
        &self,
        name: &'static str,
        work: W,
    ) -> impl Future<Output = W::Output> + use<W> {
        let watch = Watch {
            name,
            alarm: self.clone(),
        };
        async move {
            let _watch = watch;
            work.await
        }
    }

    /// Ends once it is raised.
    pub(super) async fn raised(&self) {
        self.0.cancelled().await;
    }
}

/// Dropped by the end of the work, whatever its sort.
struct Watch {
    name: &'static str,
    alarm: Alarm,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(work = self.name, "has panicked");
            self.alarm.0.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn it_is_raised_by_a_panic_and_by_no_other_end() {
        let alarm = Alarm::default();
        assert_eq!(alarm.watch("it returns", async { 7 }).await, 7);
        let cut_off = tokio::spawn(alarm.watch("it is cut off", pending::<()>()));
        tokio::task::yield_now().await;
        cut_off.abort();
        assert!(cut_off.await.unwrap_err().is_cancelled());
        assert_eq!(alarm.raised().now_or_never(), None);
        let panics = async {
            tokio::task::yield_now().await;
            panic!("as it should");
        };
        assert!(
            tokio::spawn(alarm.watch("it panics", panics))
                .await
                .unwrap_err()
                .is_panic()
        );
        assert_eq!(alarm.raised().now_or_never(), Some(()));
    }
}
