import { testShortForm } from '../support/failure-run.ts'

testShortForm('long-transaction')
