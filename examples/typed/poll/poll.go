// Package poll is a server on which people vote. The types of everything that a page sends and
// receives are declared here, and nowhere else: package tsgen writes them for the page.
package poll

import (
	"context"
	"maps"
	"slices"
	"sync"

	"bennu.example/channel"
	"bennu.example/push"
)

// Question is the reply to a join.
type Question struct {
	Text    string   `json:"text"`
	Choices []string `json:"choices"`
	Result  Result   `json:"result"`
}

// Vote is the payload of the push "vote".
type Vote struct {
	Choice string `json:"choice"`
}

// Voted is the reply to it.
type Voted struct {
	Before string `json:"before,omitempty"` // the choice that this voter has changed
}

// Result is the payload of the event "result".
type Result struct {
	Votes map[string]int `json:"votes"`
}

const resultChanged channel.Event[Result] = "result"

// Poll is a question with its votes. The methods may be called from any goroutine.
type Poll struct {
	text    string
	choices []string

	mu    sync.Mutex
	votes map[string]int // by choice
}

// New returns a poll without votes.
func New(text string, choices ...string) *Poll {
	return &Poll{text: text, choices: choices, votes: map[string]int{}}
}

// Routes returns the handlers of the poll.
func (p *Poll) Routes() channel.Routes {
	return channel.Routes{
		"poll": channel.Define(p.join, channel.On("vote", p.vote), channel.Sends[voter](resultChanged)),
	}
}

// voter is the state of a channel.
type voter struct{ choice string }

func (p *Poll) join(*voter, context.Context, *channel.Channel, struct{}) (Question, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Question{p.text, p.choices, p.result()}, nil
}

func (p *Poll) vote(v *voter, _ context.Context, c *channel.Channel, in Vote) (Voted, error) {
	if !slices.Contains(p.choices, in.Choice) {
		return Voted{}, push.Reason("no such choice")
	}
	before := v.choice
	v.choice = in.Choice
	p.mu.Lock()
	if before != "" {
		p.votes[before]--
	}
	p.votes[in.Choice]++
	result := p.result()
	p.mu.Unlock()
	return Voted{before}, resultChanged.Broadcast(c, result)
}

// result returns the result. The caller holds mu.
func (p *Poll) result() Result { return Result{maps.Clone(p.votes)} }
