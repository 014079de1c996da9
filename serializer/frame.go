package serializer

// Frame is one encoded message on its way out. It may be shared by any number of connections and is never written to.
type Frame struct {
	Op   Op
	Data []byte
}

// Encode makes the frame of m.
func Encode(s Serializer, m *Message) (*Frame, error) {
	op, data, err := s.Append(nil, m)
	if err != nil {
		return nil, err
	}
	return &Frame{Op: op, Data: data}, nil
}
