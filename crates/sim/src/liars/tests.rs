//! Every liar in a few worlds.

use super::{Liar, run};

fn holds(liar: Liar) {
    for seed in 0..4 {
        let report = run(liar, seed);
        assert!(report.is_ok(), "{liar:?}, seed {seed}: {report:?}");
    }
}

macro_rules! liars {
    ($($name:ident: $liar:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                holds(Liar::$liar);
            }
        )+
    };
}

liars! {
    an_empty_manifest_keeps_nothing_away: EmptyManifest,
    a_wrong_run_keeps_nothing_away: WrongRun,
    invented_names_leave_room: InventedNames,
    many_runs_take_bounded_memory: RunsBomb,
    who_never_answers_is_passed_by: Silent,
    what_is_withheld_comes_from_others: Withholds,
    wrong_bytes_are_not_stored: WrongBytes,
    forged_manifests_are_not_believed: ForgedManifest,
    forged_records_are_not_believed: ForgedRecords,
    what_is_called_damaged_is_hashed_once: DamagedStorm,
    what_is_of_the_far_future_is_not_taken: FutureDates,
    a_film_of_the_same_name_does_not_take_its_place: SameId,
    a_proof_is_good_for_its_rows_alone: ReplayedProof,
    floods_hold_nobody_up: Floods,
    questions_hold_nobody_up: Questions,
    what_moves_a_cursor_is_not_shown: Reason,
}

#[test]
fn what_trickles_does_not_hold_up_a_film() {
    // One contact gives a chunk group now and then of what others would give at once.
    let report = run(Liar::Withholds, 18);
    assert!(report.is_ok(), "{report:?}");
}

#[test]
fn a_world_with_a_liar_repeats_itself() {
    let once = run(Liar::WrongBytes, 3).unwrap();
    assert_eq!(once.trace, run(Liar::WrongBytes, 3).unwrap().trace);
}
