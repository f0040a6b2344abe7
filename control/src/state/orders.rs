//! What an operator has said of a node. It stands until the operator says otherwise: the node may start anew, leave and come back, or
//! name other regions in its settings meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_wire::codec::{DecodeError, Field, Reader};

use super::encoding::{Value, put_text, take_text};

/// Regions of which an operator may have said something, of one node: as many as it may serve, and as many that it is kept from.
pub const REGIONS_ORDERED_MAX: usize = 2 * trunkline_wire::control::REGIONS_PER_NODE_MAX;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Its devices go elsewhere: so many a second; 0: as the node is set.
    pub drain: Option<u32>,
    /// Regions, by name, that it serves though its settings don't name them, or doesn't though they do.
    pub regions: BTreeMap<String, bool>,
}

impl Orders {
    /// Whether nothing is left to stand.
    pub fn is_empty(&self) -> bool {
        *self == Orders::default()
    }

    /// The regions that it is to serve, by what its settings name. Forgets what these say by themselves.
    pub fn settle(&mut self, named: &BTreeSet<String>) -> BTreeSet<String> {
        self.regions.retain(|name, serves| named.contains(name) != *serves);
        let kept_from = |name: &&String| self.regions.get(*name) != Some(&false);
        let more = self.regions.iter().filter(|(_, serves)| **serves).map(|(name, _)| name);
        named.iter().filter(kept_from).chain(more).cloned().collect()
    }
}

impl Value for Orders {
    fn put(&self, out: &mut Vec<u8>) {
        Field::put(&self.drain.is_some(), out);
        if let Some(rate) = self.drain {
            Field::put(&rate, out);
        }
        Field::put(&(self.regions.len() as u16), out);
        for (name, serves) in &self.regions {
            put_text(name, out);
            Field::put(serves, out);
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Orders, DecodeError> {
        let drain = bool::take(reader)?.then(|| reader.u32()).transpose()?;
        let count = reader.u16()?;
        let entry = |_| Ok((take_text(reader)?, bool::take(reader)?));
        let regions = (0..count).map(entry).collect::<Result<_, DecodeError>>()?;
        Ok(Orders { drain, regions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_operator_s_word_stands_over_the_settings_until_they_say_the_same() {
        let regions = [("ap", true), ("us", false)].map(|(name, serves)| (name.to_owned(), serves));
        let mut orders = Orders {
            drain: None,
            regions: regions.into(),
        };
        assert_eq!(orders.settle(&names(&["eu", "us"])), names(&["ap", "eu"]));
        assert!(!orders.is_empty());
        assert_eq!(orders.settle(&names(&["ap", "eu"])), names(&["ap", "eu"]));
        assert!(orders.is_empty(), "the settings say the same by now");
    }

    #[test]
    fn a_record_gives_back_the_orders() {
        let regions = BTreeMap::from([("us".to_owned(), false)]);
        for drain in [None, Some(0), Some(50)] {
            let orders = Orders {
                drain,
                regions: regions.clone(),
            };
            let mut bytes = Vec::new();
            orders.put(&mut bytes);
            let mut reader = Reader::new(&bytes);
            assert_eq!(Orders::take(&mut reader), Ok(orders));
            assert_eq!(reader.finish(), Ok(()));
        }
    }
}
