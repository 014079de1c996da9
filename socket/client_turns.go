package socket

import (
	"context"
	"slices"
	"time"

	"bennu.example/internal/loop"
)

func (u clientSocket) Go(f func(ctx context.Context), task loop.Task) (cancel func()) {
	ctx, stop := context.WithCancel(u.ctx)
	t := &clientTurn{task: task, until: time.Now().Add(clientTurnWait)}
	u.turns = append(u.turns, t)
	if !u.turn.IsArmed() {
		u.loop.Arm(&u.turn, clientTurnWait)
	}
	u.goUser(func() {
		defer stop()
		defer u.post(clientTask(func() { u.turnReady(t) })) // also if f ends this goroutine
		f(ctx)
	})
	return func() {
		stop()
		if i := slices.Index(u.turns, t); i >= 0 {
			u.turns = slices.Delete(u.turns, i, i+1)
			u.post(clientTask(u.takeTurns)) // posted, because a task may have called cancel
		}
	}
}

func (u clientSocket) HasTurns() bool { return len(u.turns) > 0 }

// clientTurnWait bounds how long a task of clientSocket.Go waits for earlier ones.
const clientTurnWait = time.Second

// clientTurn is a pending task of clientSocket.Go.
type clientTurn struct {
	task    loop.Task
	until   time.Time
	isReady bool // its function has ended
}

// turnReady marks a task whose function has ended. A task that is no longer in the list, because
// later ones did not wait for it, runs immediately.
func (c *Client) turnReady(t *clientTurn) {
	t.isReady = true
	if !slices.Contains(c.turns, t) {
		t.task.Run()
		return
	}
	c.takeTurns()
}

// takeTurns runs the tasks at the head of the list that are ready.
func (c *Client) takeTurns() {
	for len(c.turns) > 0 && c.turns[0].isReady {
		t := c.turns[0]
		c.turns = slices.Delete(c.turns, 0, 1)
		t.task.Run()
	}
	if len(c.turns) == 0 {
		c.turns = nil
		c.loop.Disarm(&c.turn)
	}
}

// turnDue removes the tasks whose time is up from the list, so that later ones can run.
func (c *Client) turnDue() {
	for len(c.turns) > 0 && !c.turns[0].until.After(time.Now()) {
		c.turns = slices.Delete(c.turns, 0, 1)
		c.takeTurns()
	}
	if len(c.turns) > 0 {
		c.loop.Arm(&c.turn, time.Until(c.turns[0].until))
	}
}
