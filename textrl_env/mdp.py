"""The batched transition: append a token, charge the KL, stop or let the next turn begin, score.

The single and the vector environment are two faces of this one class, so they cannot drift apart. A step is carried
out in two halves: everything that can fail is computed first (actions, reference, turn environments, rewards), and only
then is state written. An error therefore leaves every row exactly as it was. A turn environment alone cannot be put
back: `TurnRows` keeps its answer for when the step is repeated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from textrl_env.actions import ParsedActions
from textrl_env.charges import DEFERRED, LOG_RATIO, charge_of
from textrl_env.episode_rows import EpisodeRows, Newest
from textrl_env.errors import ConfigError, InvalidAction, ResetNeeded
from textrl_env.rewards.scoring import score_newest_tokens
from textrl_env.rules import EpisodeRules
from textrl_env.scores import Ended, pay_now
from textrl_env.text.prompts import columns_of
from textrl_env.text.tokenization import decode_responses
from textrl_env.trajectory import Paid, Trajectory
from textrl_env.turns.endings import TurnEnd, TurnOver, answer_turns, part_sums, transcript


class Transition(NamedTuple):
    """One step of N rows."""

    rewards: np.ndarray  # float64 [N], 0 for rows that did not take part
    terminated: np.ndarray  # bool [N]
    truncated: np.ndarray  # bool [N], at a time limit, whether the episode has also terminated there or not
    ref_log_probs: np.ndarray  # float64 [N], nats, NaN in deferred mode
    kl: np.ndarray  # float64 [N], the estimator's term; NaN where the policy's log-prob is unknown
    episodes: list[tuple[int, Trajectory]]  # (row, episode) of the rows that terminated
    cut: list[tuple[int, Trajectory]]  # (row, episode) of the rows that were truncated and did not terminate
    turns: list[tuple[int, dict[str, Any]]]  # (row, record) of the turns that ended, where a turn environment answers


class TokenMDP(EpisodeRows):
    """N independent episodes under the same rules.

    max_episode_steps: tokens after which an episode is cut off, as by Gymnasium's TimeLimit: no score is paid.
    """

    def __init__(self, rules: EpisodeRules, num_rows: int, max_episode_steps: int | None = None):
        super().__init__(rules, num_rows)
        self.max_episode_steps = max_episode_steps
        self.scores_later = rules.score_mode == "deferred"  # whether the responses that end wait in `pending`
        self._is_eos = np.zeros(rules.vocabulary.size, dtype=bool)
        self._is_eos[rules.vocabulary.eos_ids] = True
        self._turn_tokens = rules.max_new_tokens if rules.turns is None else rules.turns.max_turn_tokens
        self.replace_rules(rules)

    def replace_rules(self, rules: EpisodeRules) -> None:
        """Go on with another reward or gold score. Raises ConfigError where responses wait for the present one."""
        if len(self.pending):
            raise ConfigError(
                f"{len(self.pending)} responses wait for the score of the reward that is to be replaced: call "
                "settle_scores() first"
            )
        self.pending.close()
        self.rules = rules
        self._scores_tokens = getattr(rules.reward, "score_tokens", None) is not None

    def step(self, actions: ParsedActions, live: np.ndarray | None = None) -> Transition:
        """Advance the rows where `live` (bool [N]; all by default) by one token each.

        Raises ResetNeeded, MissingLogProb, InvalidAction or a RewardError, and then has changed nothing; but for the
        turn environments that were asked, see `TurnRows`.
        """
        live = np.ones(self.num_rows, dtype=bool) if live is None else live
        self._check_running(live)
        if actions.charge_expected:
            self._refuse_what_is_deferred()
        tokens = actions.tokens
        ref_log_probs, kl, charged, charges = charge_of(self.rules, self.ids, self.charges, actions, live)
        rewards = -self.kl_coefs * charged if charged is not None else np.zeros(self.num_rows)
        rewards[~live] = 0.0
        token_scores = self._newest_token_scores(tokens, live)
        if token_scores is not None:
            rewards += token_scores
        over, reasons = self._endings(tokens, live)
        ends = {} if self.turns is None or not over else self._answered(over, reasons, tokens, rewards)
        newest = Newest(tokens, actions.log_probs, np.full(len(live), np.nan) if charged is None else charged, rewards)
        ended, expired = self._episodes(over, reasons, newest, token_scores, ends) if over else ([], [])
        if ended and not self.scores_later:
            pay_now(self.rules, [each for _, each in ended])
            for row, each in ended:
                rewards[row] = each.episode.rewards[-1]

        # Nothing below can fail.
        self.write(live, newest, ends)
        self.charges = charges
        if token_scores is not None:
            self.token_scores += token_scores
        terminated, truncated = np.zeros_like(live), np.zeros_like(live)
        terminated[[row for row, _ in ended]] = True
        truncated[[row for row, _ in expired]] = True
        if self.max_episode_steps is not None:
            truncated |= live & (self.counts >= self.max_episode_steps)
        self.running[terminated | truncated] = False
        episodes = [(row, each.episode) for row, each in ended]
        for _, each in ended if self.scores_later else ():
            self.pending.add(each, self.rules)
        self._adapt(episodes)
        at_limit = truncated & ~terminated
        at_limit[[row for row, _ in expired]] = False
        cut = [*expired, *((row, self.trajectory(row)) for row in np.flatnonzero(at_limit).tolist())]
        turns = [(row, copy.deepcopy(end.record)) for row, end in ends.items()]
        return Transition(rewards, terminated, truncated, ref_log_probs, kl, episodes, cut, turns)

    def close(self) -> None:
        """Stop asking for scores in threads, and close the turn environments."""
        self.pending.close()
        if self.turns is not None:
            self.turns.close()

    def _check_running(self, live: np.ndarray) -> None:
        if not self.running[live].all():
            row = int(np.flatnonzero(live & ~self.running)[0])
            state = "has ended" if self.prompts[row] is not None else "was never started"
            raise ResetNeeded(f"the episode in row {row} {state}: call reset() before step()")
        if self.turns is not None:
            self.turns.check(live)

    def _refuse_what_is_deferred(self) -> None:
        """Raise InvalidAction where what `step` pays is not what an agent with these actions learns from."""
        if self._initial_charge == DEFERRED:
            raise InvalidAction(
                "kl_mode='deferred' charges no KL, and nothing that follows these actions does: what is paid here "
                "would be the score alone, and not what is trained. Use kl_mode='auto' or 'log_ratio'."
            )
        if self.scores_later:
            raise InvalidAction(
                "score_mode='deferred' pays no score, and nothing that follows these actions does: what is paid here "
                "would not be what is trained. Use score_mode='stepwise'."
            )

    def settle_scores(self) -> list[Trajectory]:
        """Score the responses that wait; returns their episodes. Raises a RewardError, and then they still wait."""
        return self.pending.settle(self.rules)

    def _newest_token_scores(self, tokens: np.ndarray, live: np.ndarray) -> np.ndarray | None:
        if not self._scores_tokens:
            return None
        rows = np.flatnonzero(live).tolist()
        scores = np.zeros(self.num_rows)
        if not rows:
            return scores
        newest = score_newest_tokens(self.rules.reward, *self._judged(rows, tokens))
        if newest is not None:
            scores[rows] = newest
        return scores

    def _endings(self, tokens: np.ndarray, live: np.ndarray) -> tuple[list[int], list[str]]:
        """Rows whose response, or turn, ends with these tokens, and why."""
        eos = self._is_eos[tokens] & live
        after = self.lengths + 1
        full = (after - self.prompt_lengths >= self.rules.max_new_tokens) & live
        if self.turns is not None:
            full |= (after - self.turn_starts >= self._turn_tokens) & live
        stopped = np.zeros_like(eos)
        if self.rules.stop.strings:
            rows = np.flatnonzero(live & ~eos).tolist()
            stopped[rows] = self.rules.stop.hit(tokens[rows], [self.turn_ids(row, tokens) for row in rows])
        ended = np.flatnonzero(eos | full | stopped).tolist()
        return ended, ["eos" if eos[row] else "stop" if stopped[row] else "length" for row in ended]

    def _answered(
        self, over: list[int], reasons: list[str], tokens: np.ndarray, rewards: np.ndarray
    ) -> dict[int, TurnEnd]:
        """What follows the turns that are over, by row; their rewards are added to `rewards`."""
        assert self.turns is not None
        asked = [
            TurnOver(
                row,
                [*self.ids[row, : self.lengths[row]].tolist(), int(tokens[row])],
                self.turn_ids(row, tokens).tolist(),
                reason,
                int(self.rules.max_new_tokens - (self.lengths[row] + 1 - self.prompt_lengths[row])),
            )
            for row, reason in zip(over, reasons, strict=True)
        ]
        ends = dict(zip(over, answer_turns(self.turns, asked, self.rules.vocabulary.size), strict=True))
        for row, end in ends.items():
            rewards[row] += end.reward
        return ends

    def _episodes(
        self,
        over: list[int],
        reasons: list[str],
        newest: Newest,
        token_scores: np.ndarray | None,
        ends: Mapping[int, TurnEnd],
    ) -> tuple[list[tuple[int, Ended]], list[tuple[int, Trajectory]]]:
        """The rows' episodes that end here, without what a reward is yet to say, and those that a turn environment's
        time-out cuts off."""
        going_on = [row for row, end in ends.items() if not end.finish_reason and not end.truncated]
        closing = [(row, reason) for row, reason in zip(over, reasons, strict=True) if row not in going_on]
        responses = self._responses([row for row, _ in closing], newest.tokens, ends)
        ended: list[tuple[int, Ended]] = []
        expired: list[tuple[int, Trajectory]] = []
        for (row, reason), response in zip(closing, responses, strict=True):
            end = ends.get(row)
            paid = self._paid(row, token_scores, end)
            known: dict[str, Any] = {"response": response, "finish_reason": reason}
            if end is not None:
                assert self.turns is not None
                known["turns"] = copy.deepcopy([*self.turns.records[row], end.record])
                known |= {"finish_reason": end.finish_reason, "success": end.success}
            if end is not None and end.truncated:
                known |= {"score": paid.total, "score_parts": paid.with_parts({})}
                expired.append((row, self.trajectory(row, newest, end.appended, **known)))
            else:
                ended.append((row, Ended(self.trajectory(row, newest, **known), self.prompt_of(row), paid)))
        return ended, expired

    def _responses(self, over: list[int], tokens: np.ndarray, ends: Mapping[int, TurnEnd]) -> list[str]:
        """The text of what followed the prompts; of a chat of several turns, who said what."""
        if self.turns is not None and self.turns.rules.is_chat:
            return [transcript([*self.turns.records[row], ends[row].record]) for row in over]
        ids = [
            [*self.ids[row, self.prompt_lengths[row] : self.lengths[row]].tolist(), int(tokens[row])] for row in over
        ]
        after_text = [isinstance(self.prompt_of(row).text, str) for row in over]
        return decode_responses(self.rules.tokenizer, ids, after_text=after_text)

    def _paid(self, row: int, token_scores: np.ndarray | None, end: TurnEnd | None) -> Paid:
        """What was paid of the row's score, this step's token score and turn included."""
        total, parts = 0.0, {}
        if self._scores_tokens:
            total = float(self.token_scores[row] + (0.0 if token_scores is None else token_scores[row]))
            parts["token_scores"] = total
        if end is not None:
            assert self.turns is not None
            of_turns = float(self.turn_scores[row] + end.reward)
            parts |= {"turns": of_turns, **part_sums([*self.turns.records[row], end.record])}
            total += of_turns
        return Paid(total, parts)

    def _adapt(self, episodes: list[tuple[int, Trajectory]]) -> None:
        sums = [episode.kl_sum for row, episode in episodes if self.charges[row] == LOG_RATIO]
        if sums:
            self.rules.kl_penalty.update(float(np.mean(sums)), len(sums))

    def _judged(
        self, rows: Sequence[int], tokens: np.ndarray
    ) -> tuple[list[Any], list[list[int]], dict[str, list[Any]]]:
        """What a reward gets of `rows`: prompts, response ids with the newest of `tokens`, and columns."""
        prompts = [self.prompt_of(row) for row in rows]
        ids = [self.response_ids(row, tokens).tolist() for row in rows]
        return [prompt.text for prompt in prompts], ids, columns_of(prompts)
