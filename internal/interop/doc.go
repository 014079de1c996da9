// Package interop runs the stock phoenix.js, unmodified and as npm has it, against this server: in Node and in headless Chromium, over
// WebSocket and over long poll.
//
// It consists of tests. The scenarios are client/scenarios.mjs and client/presence.mjs, the same for all four; to run one:
//
//	go test ./internal/interop -run 'TestNode/websocket' -scenario 'crash and rejoin' -v
//
// The packages named in package.json are installed at the first run, into a folder below the user's cache folder.
package interop
