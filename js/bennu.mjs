// An add-on over any client with the API of phoenix.js, such as the stock package or socket.mjs,
// for the features that this server adds to Phoenix. It has no dependencies.
//
//   connect       a socket with an identity, tokens that are refreshed, and the server's time
//   recover       a channel that receives what it missed while it had no connection
//   openDocument  a shared value; openMap and openList: shared values by keys, and in an order
//   call          a push as a promise
//   handle        answers what the server asks by a call
//
// README.md in this directory has examples. The stock client's own features, such as Presence, work
// with the sockets and channels of this module as usual.

export { call, PushError } from "./push.mjs";
export { handle } from "./calls.mjs";
export { connect } from "./connection.mjs";
export { recover } from "./recovery.mjs";
export { openDocument, openList, openMap } from "./state.mjs";
