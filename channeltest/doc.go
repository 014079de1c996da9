// Package channeltest helps to test channels: it serves handlers on a network in memory, and has
// clients that push, join and expect.
//
//	func TestShout(t *testing.T) {
//		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": room}})
//		ann := server.Join(t, "room:lobby", map[string]string{"user": "ann"})
//		bob := server.Join(t, "room:lobby", map[string]string{"user": "bob"})
//		ann.Push("shout", map[string]string{"body": "hello"}).ExpectOK(t, nil)
//		bob.Expect(t, "shout", map[string]string{"body": "hello", "user": "ann"})
//	}
//
// Begin with [Start], [Server.Join] and [Inbox.Expect]. The guide docs/testing.md shows more, and
// what the functions of Phoenix.ChannelTest are called here.
//
// The handler, the sockets and the clients are the real ones. Only the network is not: [Network]
// can break, delay and lose what they send.
//
// # Virtual time
//
// Everything works in a bubble of testing/synctest and outside of it. In a bubble, hours pass in
// milliseconds, and a test never waits for the machine. Call Start in the bubble.
//
// # Concurrency and cleanup
//
// A function with a testing.TB fails that test with FailNow, so it must be called from the
// goroutine of that test. Other methods may be called from any goroutine.
//
// Everything ends by the Cleanup of the test that was given to [Start]: the clients first, then the
// handler. Create a presence.Presence and everything else that the handler uses before Start, so
// that it ends after the handler. No goroutine is left.
package channeltest
