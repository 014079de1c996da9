package push

import "bennu.example/internal/oncetable"

// NewOnceMemory returns a store for the handlers of one process. It keeps that many ids, and 1 KiB
// of replies for each of them on average. If it is full, the client whose ids take the most memory
// loses the oldest of them. Zero means 100,000 ids.
func NewOnceMemory(ids int) OnceStore { return oncetable.New(ids, nil) }
