//! The flags that fit a node to its host, over the settings of its file; shared by `node` and `up`.

use trunkline_node::config::{Memory, TuningSection};

/// See the module's text.
#[derive(clap::Args)]
#[command(next_help_heading = "Tuning")]
pub struct Flags {
    /// How long a thread looks for work before it sleeps, in microseconds: lower latency for a processor's time. 0: it sleeps at once.
    #[arg(long, env = "TRUNKLINE_SPIN_US", value_name = "US")]
    spin_us: Option<u32>,
    /// How long the kernel polls the network cards before a thread sleeps, in microseconds. 0: it doesn't.
    #[arg(long, env = "TRUNKLINE_BUSY_POLL_US", value_name = "US")]
    busy_poll_us: Option<u32>,
    /// TCP_NODELAY: false lets the kernel wait to fill segments.
    #[arg(long, env = "TRUNKLINE_NODELAY", value_name = "BOOL")]
    nodelay: Option<bool>,
    /// SO_INCOMING_CPU: a connection is accepted by the thread on whose processor its packets come in.
    #[arg(long, env = "TRUNKLINE_INCOMING_CPU", value_name = "BOOL")]
    incoming_cpu: Option<bool>,
    /// Whose memory a thread has, with several NUMA nodes: local to its processor, or inherited, as the process was started.
    #[arg(long, env = "TRUNKLINE_MEMORY", value_parser = memory)]
    memory: Option<Memory>,
    /// SO_SNDBUF of devices and links. Otherwise the kernel's own choice, which grows as needed.
    #[arg(long, env = "TRUNKLINE_SEND_BUFFER_BYTES", value_name = "BYTES")]
    send_buffer_bytes: Option<u32>,
    /// SO_RCVBUF likewise.
    #[arg(long, env = "TRUNKLINE_RECEIVE_BUFFER_BYTES", value_name = "BYTES")]
    receive_buffer_bytes: Option<u32>,
    /// How many receive buffers the devices of a thread share.
    #[arg(long, env = "TRUNKLINE_DEVICE_BUFFERS", value_name = "COUNT")]
    device_buffers: Option<u32>,
    /// Bytes of each.
    #[arg(long, env = "TRUNKLINE_DEVICE_BUFFER_BYTES", value_name = "BYTES")]
    device_buffer_bytes: Option<u32>,
}

fn memory(text: &str) -> Result<Memory, String> {
    match text {
        "local" => Ok(Memory::Local),
        "inherited" => Ok(Memory::Inherited),
        other => Err(format!("`{other}` is neither \"local\" nor \"inherited\"")),
    }
}

impl Flags {
    /// Puts what was given over what the file says.
    pub fn over(&self, section: &mut TuningSection) {
        fn set<T: Copy>(setting: &mut T, flag: Option<T>) {
            *setting = flag.unwrap_or(*setting);
        }
        set(&mut section.spin_us, self.spin_us);
        set(&mut section.busy_poll_us, self.busy_poll_us);
        set(&mut section.nodelay, self.nodelay);
        set(&mut section.incoming_cpu, self.incoming_cpu);
        set(&mut section.memory, self.memory);
        set(&mut section.device_buffers, self.device_buffers);
        set(&mut section.device_buffer_bytes, self.device_buffer_bytes);
        section.send_buffer_bytes = self.send_buffer_bytes.or(section.send_buffer_bytes);
        section.receive_buffer_bytes = self.receive_buffer_bytes.or(section.receive_buffer_bytes);
    }
}
