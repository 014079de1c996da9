package socket

import (
	"testing"

	"bennu.example/channel"
)

// TestClientResumeNextLife checks that the position survives the end of a life, so that the next
// life of the channel receives what was recorded in between.
func TestClientResumeNextLife(t *testing.T) {
	t.Parallel()
	ends := map[string]func(t *testing.T, p *peer, f *follower){
		"left": func(t *testing.T, _ *peer, f *follower) { mustReply(t, f.Leave()) },
		"closed by the server": func(t *testing.T, p *peer, f *follower) {
			f.Push("stop", nil)
			<-f.Done()
		},
		"left without a connection": func(t *testing.T, p *peer, f *follower) {
			p.last().cut(errReset)
			mustReply(t, f.Leave())
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
				connected(t, c)
				f := follow(p, c, channel.ResumeConfig{})
				mustReply(t, f.Join())
				f.log.append("a", "b")
				f.want(t, "reset: new", "a", "b")
				f.wantPosition(t, "e1-2-aaaa")

				end(t, p, f)
				f.log.mu.Lock()
				f.log.quiet = true // nobody is joined: no broadcast may arrive
				f.log.mu.Unlock()
				f.log.append("c", "d")
				f.want(t)
				f.wantPosition(t, "e1-2-aaaa")

				if err := f.SetParams(map[string]int{"n": 2}); err != nil {
					t.Fatal(err)
				}
				f.log.mu.Lock()
				f.log.quiet = false
				f.log.mu.Unlock()
				reply := mustReply(t, f.Join())
				var joined struct {
					History struct{ Recovered bool } `json:"$history"`
				}
				if err := reply.Decode(&joined); err != nil || !joined.History.Recovered {
					t.Errorf("reply %s, %v: not recovered", jsonOf(reply), err)
				}
				f.want(t, "c", "d")
				f.log.append("e")
				f.want(t, "e")
				f.wantPosition(t, "e1-5-aaaa")
			})
		})
	}
}
