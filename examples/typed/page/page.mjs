// @ts-check
import { channel, PushError } from "./channels.mjs";

/**
 * Joins the poll, and shows its question and its result by `ui`. The promise resolves to a
 * function that votes. It returns a text for the voter.
 * @param {import("./channels.mjs").Socket} socket
 * @param {{
 *   ask(text: string, choices: string[]): void,
 *   show(votes: Record<string, number>): void,
 * }} ui
 */
export async function start(socket, ui) {
  const poll = channel(socket, "poll");
  poll.on("result", ({ votes }) => ui.show(votes ?? {}));
  await poll.join(({ text, choices, result }) => {
    ui.ask(text, choices ?? []);
    ui.show(result.votes ?? {});
  });
  return async (/** @type {string} */ choice) => {
    try {
      const { before } = await poll.push("vote", { choice });
      return before ? `You have changed from ${before} to ${choice}.` : `You have voted for ${choice}.`;
    } catch (error) {
      if (error instanceof PushError) return `Not accepted: ${error.reason}.`;
      throw error;
    }
  };
}
