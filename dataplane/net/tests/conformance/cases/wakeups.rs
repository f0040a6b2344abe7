//! Wake-ups, from threads that know nothing of the driver's state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use trunkline_net::driver::Driver;

use crate::harness::{Bounds, Failure, Harness, Outcome, ensure};
use crate::rig::Rig;

pub fn one_driver_wakes_another_also_itself_and_not_who_is_gone<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (waker, sleeper) = (rig.add(Bounds::default()), rig.add(Bounds::default()));
    rig.run_for(Duration::from_millis(5))?;
    for woken in [sleeper, waker] {
        let at = rig.nodes[woken].driver.address();
        let before = rig.nodes[woken].wakes;
        // Several may fold into one.
        for _ in 0..3 {
            rig.nodes[waker].driver.wake(&at);
        }
        rig.run("it wakes", |rig| rig.nodes[woken].wakes > before)?;
        rig.run_for(Duration::from_millis(5))?;
        let wakes = rig.nodes[woken].wakes - before;
        ensure!(wakes <= 3, "{wakes} wake-ups of 3 wakes");
    }
    let gone = rig.nodes[sleeper].driver.address();
    rig.nodes.truncate(sleeper);
    rig.nodes[waker].driver.wake(&gone);
    rig.run_for(Duration::from_millis(5))
}

pub fn no_wake_is_lost_in_a_race<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let node = rig.add(Bounds::default());
    let waker = rig.nodes[node].driver.waker();
    let (asked, published) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let thread = {
        let (asked, published) = (asked.clone(), published.clone());
        std::thread::spawn(move || {
            for turn in 1..=RACES {
                while asked.load(Ordering::Acquire) < turn {
                    std::thread::yield_now();
                }
                // Sometimes at once, sometimes when the driver is likely to sleep already.
                for _ in 0..(turn % 64) * 20 {
                    std::hint::spin_loop();
                }
                published.store(turn, Ordering::Relaxed);
                waker.wake();
            }
        })
    };
    let node = &mut rig.nodes[node];
    let mut lost = None;
    for turn in 1..=RACES {
        asked.store(turn, Ordering::Release);
        let give_up = Instant::now() + Duration::from_secs(5);
        let mut seen = 0;
        while seen < turn && lost.is_none() {
            let wakes = node.wakes;
            // Far in the future: only the wake ends it.
            node.turn(Some(node.driver.now() + Duration::from_secs(5)))?;
            if node.wakes > wakes {
                seen = published.load(Ordering::Relaxed);
            } else {
                // A driver in virtual time never sleeps: let the other thread have the processor.
                std::thread::yield_now();
            }
            if Instant::now() > give_up {
                lost = Some(turn);
            }
        }
    }
    // Let the thread end, whatever happened.
    asked.store(RACES, Ordering::Release);
    thread
        .join()
        .map_err(|_| Failure("the waking thread panicked".to_owned()))?;
    ensure!(lost.is_none(), "wake {lost:?} of {RACES} was lost");
    Ok(())
}

pub fn a_wake_before_the_wait_ends_it<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let node = rig.add(Bounds::default());
    let waker = rig.nodes[node].driver.waker();
    for _ in 0..100 {
        waker.wake();
    }
    let node = &mut rig.nodes[node];
    let until = node.driver.now() + Duration::from_secs(5);
    node.turn(Some(until))?;
    ensure!(node.wakes >= 1, "wait returned without the wake");
    ensure!(node.wakes <= 100, "{} wakes from 100", node.wakes);
    ensure!(node.driver.now() < until, "the wake didn't end the wait");
    Ok(())
}

pub fn wait_lasts_until_its_deadline<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let node = rig.add(Bounds::default());
    let node = &mut rig.nodes[node];
    // A driver in virtual time doesn't wait at all.
    let Some(until) = rig.harness.until(&node.driver, true) else {
        return Ok(());
    };
    let until = until + Duration::from_millis(20);
    ensure!(!node.turn(Some(until))?, "something completed in an idle driver");
    ensure!(node.driver.now() >= until, "wait returned early with nothing");
    let before = node.driver.now();
    node.turn(Some(trunkline_wire::time::Instant::ZERO))?;
    ensure!(
        node.driver.now() - before < Duration::from_secs(1),
        "a deadline in the past was waited for"
    );
    Ok(())
}

const RACES: u64 = 2_000;
