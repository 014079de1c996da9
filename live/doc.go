// Package live serves a page on which operators watch a running server, and act on it: its nodes,
// connections, channels, the largest topics, rates, the times of callbacks, queues of slow clients,
// crashes with their stacks, and who is on a topic. It needs nothing beyond this module.
//
//	page, err := live.NewHandler(live.Config{
//		PubSub: ps,
//		Authorize: func(r *http.Request) live.Level {
//			if isAdmin(r) {
//				return live.Operate
//			}
//			return live.None
//		},
//	})
//	sockets := socket.NewHandler(socket.Config{
//		PubSub: ps, Hooks: []*socket.Hooks{page.Hooks()}, Channels: channels,
//	})
//	page.Watch(sockets)
//	http.Handle("/admin/live/", page)
//
// The page itself is a client of channels, on a handler and a PubSub of its own, which no other
// client can reach. The nodes of a cluster exchange summaries over the given PubSub while somebody
// looks at the page, and at no other time. All of it is bounded: a summary has the largest topics
// and queues, however many there are, and names that clients choose are cut off.
//
// See docs/live.md.
package live
