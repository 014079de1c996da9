// Package interop tests the unmodified phoenix.js from npm against this server, in Node and in
// headless Chromium, over WebSocket and long polling.
//
// The scenarios are in client/scenarios.mjs and client/presence.mjs and are the same in all four
// environments. To run one of them:
//
//	go test ./internal/interop -run 'TestNode/websocket' -scenario 'crash and rejoin' -v
//
// client/advice.mjs runs code of docs/connections.md while a server shuts down.
// client/recovery.mjs runs the code of docs/recovery.md while connections are cut, and the test
// records what the clients receive for internal/histcheck.
//
// The packages in internal/testenv/npm are installed during the first run, in the user's cache
// directory.
package interop
