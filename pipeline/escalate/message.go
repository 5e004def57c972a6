package escalate

// Message is one message of a chat: Role is system, user or assistant.
type Message struct {
	Role    string
	Content string
}
