package natsengine

import "encoding/json"

// direct begins a request for several messages to any replica of the stream.
func (l *remote) direct(g getRequest) (*request, error) {
	g.MaxBytes = maxPart
	data, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	r := &request{subject: "$JS.API.DIRECT.GET." + l.stream, data: data, many: true, again: true}
	return r, l.start(r)
}

// leader begins a request for one message to the stream's leader, which has every message that was
// confirmed.
func (l *remote) leader(g getRequest, control bool) (*request, error) {
	data, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	r := &request{subject: "$JS.API.STREAM.MSG.GET." + l.stream, data: data, again: true, control: control}
	return r, l.start(r)
}
